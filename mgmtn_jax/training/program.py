"""The compiled programs of a run: its initial state, training step and evaluation step on a mesh.

Training and the benchmarks build them here, so that what a benchmark compiles for a pod is what
training runs on it. `jax.jit` with shardings is what pjit has become.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jax.sharding import Mesh

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import pipeline
from mgmtn_jax.evaluation import prediction
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.models.functional import State
from mgmtn_jax.runs import partitioning
from mgmtn_jax.training import optimization
from mgmtn_jax.training.step import init_state, make_train_step


class Program(NamedTuple):
    """A network, its optimizer and the places of their arrays on a mesh; nothing is compiled yet.

    Attributes:
      config: The resolved config.
      attribute_set: Names and groups of the labels.
      mesh: Mesh of the devices to compile for.
      build: Constructor of the network.
      optimizer: The optimizer.
      schedule: Its learning rate.
      abstract_state: Shapes, dtypes and shardings of the train state.
    """

    config: ml_collections.ConfigDict
    attribute_set: AttributeSet
    mesh: Mesh
    build: Callable[[nnx.Rngs], nnx.Module]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    abstract_state: State

    @property
    def network(self) -> functional.Network:
        """The network without its arrays."""
        dtype = jnp.dtype(self.config.model.dtype)
        return functional.create(self.build, partitioning.GatherParameters(self.mesh, dtype))

    @property
    def shardings(self) -> State:
        """The sharding of each array of the train state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)

    def abstract_batch(self, *, evaluation: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of a global batch."""
        data = self.config.data
        spec = pipeline.batch_spec(
            data.batch_size,
            data.image_size,
            len(self.attribute_set.names),
            evaluation=evaluation,
        )
        return partitioning.with_shardings(spec, partitioning.batch_sharding(self.mesh))

    def lower_init(self) -> jax.stages.Lowered:
        """Lowers `init(key) -> state`."""
        init = functools.partial(_init, self.build, self.optimizer, self.config)
        key = jax.eval_shape(jax.random.key, 0)
        return jax.jit(init, out_shardings=self.shardings).lower(key)

    def lower_train_step(self) -> jax.stages.Lowered:
        """Lowers `train_step(state, batch) -> (state, scalars)`; the state's memory is reused.

        The compiled step rejects batches of another shape instead of recompiling.
        """
        step = make_train_step(
            self.network, self.optimizer, self.schedule, self.config, self.attribute_set
        )
        jitted = jax.jit(
            step,
            in_shardings=(self.shardings, partitioning.batch_sharding(self.mesh)),
            out_shardings=(self.shardings, partitioning.replicated(self.mesh)),
            donate_argnums=0,
        )
        return jitted.lower(self.abstract_state, self.abstract_batch())

    def jit_eval_step(self) -> Any:
        """Jits `eval_step(params, batch_stats, batch) -> dict`; results are on every process."""
        shardings = self.shardings
        return jax.jit(
            prediction.make_eval_step(self.network, self.config),
            in_shardings=(
                shardings["params"],
                shardings["batch_stats"],
                partitioning.batch_sharding(self.mesh),
            ),
            out_shardings=partitioning.replicated(self.mesh),
        )

    def lower_eval_step(self) -> jax.stages.Lowered:
        """Lowers `jit_eval_step` for a batch of the config's size."""
        state = self.abstract_state
        return self.jit_eval_step().lower(
            state["params"], state["batch_stats"], self.abstract_batch(evaluation=True)
        )


def create_program(
    config: ml_collections.ConfigDict,
    attribute_set: AttributeSet,
    num_steps: int,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """Builds the network and the optimizer, and decides where their arrays lie.

    Args:
      config: The resolved config.
      attribute_set: Names and groups of the labels.
      num_steps: Number of steps of the run.
      devices: Devices of the mesh; by default all devices of the process group.

    Raises:
      ValueError: If the config does not fit the devices, or a field has no valid value.
    """
    mesh = partitioning.create_mesh(
        config.mesh.data, config.mesh.fsdp, config.data.batch_size, devices
    )
    build = network_builder(config, attribute_set)
    optimizer, schedule = optimization.create_optimizer(config, num_steps)
    shapes = jax.eval_shape(
        functools.partial(_init, build, optimizer, config), jax.random.key(config.train.seed)
    )
    shardings = partitioning.state_shardings(mesh, shapes)
    return Program(
        config,
        attribute_set,
        mesh,
        build,
        optimizer,
        schedule,
        partitioning.with_shardings(shapes, shardings),
    )


def _init(
    build: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    config: ml_collections.ConfigDict,
    key: jax.Array,
) -> State:
    return init_state(build, optimizer, key, averaged=config.train.ema > 0)
