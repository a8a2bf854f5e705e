"""Bytes that the devices of a mesh exchange in a training step, read from the compiled program."""

from __future__ import annotations

import collections
import math
import re
from typing import Any

import jax

from experiments.benchmarks.step import variant_config
from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.training.program import create_program

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
    config.mesh.fsdp = fsdp
    program = create_program(config, CELEBA, num_steps=10_000)
    # Collectives are fixed before code is optimized, which takes minutes on CPU: leave it out.
    on_cpu = jax.default_backend() == "cpu"
    options: dict[str, Any] | None = {"xla_backend_optimization_level": 0} if on_cpu else None
    compiled = program.lower_train_step().compile(options)
    sizes = [
        (4 * leaf.size, bool(leaf.sharding.spec))
        for leaf in jax.tree.leaves(program.abstract_state["params"])
    ]
    memory = compiled.memory_analysis()
    return {
        "figure": "collectives",
        "variant": variant,
        "devices": devices,
        "fsdp": fsdp,
        "faces_per_device": faces_per_device,
        "image_size": image_size,
        "parameter_bytes": sum(size for size, _ in sizes),
        "split_parameter_bytes": sum(size for size, is_split in sizes if is_split),
        "collective_bytes": collective_bytes(compiled.as_text() or ""),
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
