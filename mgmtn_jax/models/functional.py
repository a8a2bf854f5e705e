"""The bridge between NNX modules and plain dicts; the only file that knows both.

NNX builds the network. Train state is nested dicts of arrays, and JAX's own transforms work on
pure functions of them: `nnx.jit` walks the module's graph in Python at every call, ten times the
dispatch time of `jax.jit` on deep networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from mgmtn_jax.models.layers import Landmarks, Outputs

Variables = dict[str, Any]
"""A nested dict of arrays whose keys are strings, as Orbax and safetensors want them."""


State = dict[str, Any]
"""step int32, params, batch_stats, opt_state, and, if `train.ema` is above 0, ema, averaged params.
The key of a step's dropout is a function of (seed, step), so there is no generator to carry."""


def _to_dict(state: nnx.State) -> Variables:
    tree: Variables = {}
    for path, variable in nnx.to_flat_state(state):
        *parents, leaf = (str(key) for key in path)
        branch = tree
        for key in parents:
            branch = branch.setdefault(key, {})
        branch[leaf] = variable[...]
    return tree


def _to_state(tree: Mapping[str, Any]) -> dict[str | int, Any]:
    return {
        int(key) if key.isdigit() else key: _to_state(value)
        if isinstance(value, Mapping)
        else value
        for key, value in tree.items()
    }


@dataclasses.dataclass(frozen=True)
class Network:
    """A network without its arrays: hashable, and a pure function of them.

    Attributes:
      graphdef: its structure.
      parameters_at_use: where its parameters are brought before anything is computed with them;
        None leaves it to XLA.
    """

    graphdef: nnx.GraphDef
    parameters_at_use: jax.sharding.Sharding | None = None

    def __call__(
        self,
        params: Variables,
        batch_stats: Variables,
        images: Float[Array, "b s s 3"],
        landmarks: Landmarks | None = None,
        *,
        train: bool = False,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Outputs, Variables]:
        """Runs the network.

        Args:
          params: as `init` returned them, or their update.
          batch_stats: BatchNorm's running means and variances.
          images: normalized pixels.
          landmarks: needed by oracle masks alone.
          train: use the batch's own statistics, update the running ones, and drop units.
          dropout_key: needed by `train`.

        Returns:
          The outputs, and the batch statistics after this batch.
        """
        if self.parameters_at_use is not None:
            params = jax.lax.with_sharding_constraint(params, self.parameters_at_use)
        module = nnx.merge(self.graphdef, _to_state(params), _to_state(batch_stats))
        rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
        outputs = module(images, landmarks, train=train, rngs=rngs)
        return outputs, _to_dict(nnx.state(module, nnx.BatchStat))


def init(build: Callable[[nnx.Rngs], nnx.Module], key: jax.Array) -> tuple[Variables, Variables]:
    """Creates params and batch_stats; meant to be jitted with the shardings they shall have."""
    module = build(nnx.Rngs(key))
    params, batch_stats = nnx.state(module, nnx.Param, nnx.BatchStat)
    return _to_dict(params), _to_dict(batch_stats)


def create(
    build: Callable[[nnx.Rngs], nnx.Module],
    parameters_at_use: jax.sharding.Sharding | None = None,
) -> Network:
    """The structure of the network that `build` makes, without allocating an array."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    return Network(graphdef, parameters_at_use)
