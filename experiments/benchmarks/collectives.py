"""Bytes that the devices of a mesh exchange in a training step, read from the compiled program."""

from __future__ import annotations

import collections
import functools
import math
import re
from typing import Any

import jax

from experiments.benchmarks.step import noise, variant_config
from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.runs import partitioning
from mgmtn_jax.training import optimization
from mgmtn_jax.training.step import init_state, make_train_step

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def measure_collectives(
    variant: str, image_size: int, faces_per_device: int, fsdp: int
) -> dict[str, Any]:
    """Compiles a training step for all devices of this process, without running it.

    Args:
      variant: Fields of `config.model` that differ from common.py, as for `benchmark step`.
      image_size: Side of the face crops in pixels.
      faces_per_device: Per-device batch size.
      fsdp: Number of devices that share each large parameter.

    Returns:
      One row of sizes in bytes: the results of each kind of collective on one device; all
      parameters, and those sharded over `fsdp`, both before sharding; the arguments and the
      temporary buffers of the step on one device.
    """
    devices = jax.device_count()
    config = variant_config(variant, image_size, faces_per_device * devices)
    mesh = partitioning.create_mesh(-1, fsdp, config.data.batch_size)
    build = network_builder(config, CELEBA)
    optimizer, schedule = optimization.create_optimizer(config, num_steps=10_000)
    init = functools.partial(init_state, build, optimizer)
    state = jax.eval_shape(init, jax.random.key(0))
    shardings = partitioning.state_shardings(mesh, state)
    batch = jax.eval_shape(lambda: noise(config.data.image_size, config.data.batch_size))
    network = functional.create(build, partitioning.parameters_at_use(mesh))
    # Collectives are fixed before code is optimized, which takes minutes on CPU: leave it out.
    on_cpu = jax.default_backend() == "cpu"
    options: dict[str, Any] | None = {"xla_backend_optimization_level": 0} if on_cpu else None
    program = (
        jax.jit(
            make_train_step(network, optimizer, schedule, config, CELEBA),
            in_shardings=(shardings, partitioning.batch_sharding(mesh)),
            out_shardings=(shardings, partitioning.replicated(mesh)),
            donate_argnums=0,
        )
        .lower(state, batch)
        .compile(options)
    )
    placed = zip(
        jax.tree.leaves(state["params"]), jax.tree.leaves(shardings["params"]), strict=True
    )
    sizes = [(4 * leaf.size, bool(sharding.spec)) for leaf, sharding in placed]
    memory = program.memory_analysis()
    return {
        "figure": "collectives",
        "variant": variant,
        "devices": devices,
        "fsdp": fsdp,
        "faces_per_device": faces_per_device,
        "image_size": image_size,
        "parameter_bytes": sum(size for size, _ in sizes),
        "split_parameter_bytes": sum(size for size, is_split in sizes if is_split),
        "collective_bytes": collective_bytes(program.as_text() or ""),
        "argument_bytes": memory and memory.argument_size_in_bytes,
        "temporary_bytes": memory and memory.temp_size_in_bytes,
    }


def collective_bytes(program: str) -> dict[str, int]:
    """Sums the bytes that the collectives of a compiled program return.

    An asynchronous collective is counted at its `-done` operation: the result of its `-start`
    includes the inputs.

    Args:
      program: Text of the compiled program (HLO).

    Returns:
      Kind of collective -> bytes.
    """
    total: collections.Counter[str] = collections.Counter()
    for shapes, kind in re.findall(rf" = (.*?) ({_KINDS})(?:-done)?\(", program):
        for bits, dimensions in re.findall(r"[a-z]+(\d+)\w*\[([\d,]*)\]", shapes):
            elements = math.prod(int(size) for size in dimensions.split(",") if size)
            total[kind] += elements * int(bits) // 8
    return dict(total)
