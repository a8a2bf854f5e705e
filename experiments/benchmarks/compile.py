"""Compiles the project's own steps for accelerators that are not here, and says whether they fit.

Memory, FLOP, bytes and collectives are those of the compiled program. Cycles and the roofline are
estimates: nothing runs.
"""

from __future__ import annotations

import re
import time
from typing import Any

import jax
import ml_collections

from experiments.benchmarks import topologies
from experiments.benchmarks.collectives import collective_bytes
from experiments.benchmarks.topologies import CHIPS, Topology
from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.training.program import Program, create_program

STEPS = ("train", "eval", "init")

QUICK: dict[str, Any] = {"exec_time_optimization_effort": -1.0}
"""A third of libtpu's compile time; collectives, FLOP and temporaries stay within 1 %."""


class DoesNotFitError(ValueError):
    """The program needs more memory than a chip has."""


def measure_compile(
    config_name: str, config: ml_collections.ConfigDict, topology: Topology, step: str, full: bool
) -> dict[str, Any]:
    """Compiles one step for a topology, with CelebA's 40 attributes.

    Args:
      config_name: Name of the config, for the row.
      config: The resolved config; `data.batch_size` is the global batch size.
      topology: Devices to compile for.
      step: One of `STEPS`.
      full: Compile with the default optimization effort, which takes minutes, and estimate cycles.

    Returns:
      One row. Bytes, FLOP and cycles are per chip and step.

    Raises:
      DoesNotFitError: If a chip has too little memory, with both numbers and what to change.
      ValueError: If the config does not fit the topology.
    """
    chip = CHIPS[topology.chip]
    program = create_program(config, CELEBA, 10_000, topologies.devices(topology))
    start = time.perf_counter()
    lowered = lower(program, step)
    quick = not full and chip.platform == "tpu"
    try:
        compiled = lowered.compile(compiler_options=QUICK if quick else None)
    except jax.errors.JaxRuntimeError as error:
        sizes = needed_and_available(str(error))
        if sizes is None:
            raise
        raise DoesNotFitError(_advice(config, topology, *sizes)) from error
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    assert memory is not None, "every accelerator's compiler reports memory"
    text = compiled.as_text() or ""
    peak_bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    peak_bytes += memory.output_size_in_bytes - memory.alias_size_in_bytes
    row = {
        "config": config_name,
        "topology": str(topology),
        "chips": topology.num_chips,
        "batch_per_chip": config.data.batch_size // topology.num_chips,
        "step": step,
        "fits": peak_bytes <= chip.hbm_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": peak_bytes,
        "hbm_bytes": chip.hbm_bytes,
        # XLA's CUDA compiler counts neither.
        "flops": cost.get("flops"),
        "bytes_accessed": cost.get("bytes accessed"),
        "collectives": collective_bytes(text),
        "compile_seconds": time.perf_counter() - start,
    }
    if full:
        row |= {"cycles": _estimated_cycles(text), **_roofline(row, topology)}
    if not row["fits"]:
        needed, available = (f"{size / 1e9:.1f} GB" for size in (peak_bytes, chip.hbm_bytes))
        raise DoesNotFitError(_advice(config, topology, needed, available))
    return row


def needed_and_available(message: str) -> tuple[str, str] | None:
    """Reads both sizes from a compiler's message that memory ran out; None for other messages.

    Examples:
        >>> needed_and_available("RESOURCE_EXHAUSTED: temporaries (53.87G) exceed HBM (15.75G).")
        ('53.87 GiB', '15.75 GiB')
    """
    sizes = re.findall(r"\b([\d.]+)([KMG])\b", message)
    if "RESOURCE_EXHAUSTED" not in message or len(sizes) < 2:
        return None
    needed, available = (f"{number} {unit}iB" for number, unit in sizes[:2])
    return needed, available


def table(row: dict[str, Any]) -> str:
    """Formats a row for people, one quantity per line."""
    giga = 1e9
    lines = [
        f"{row['config']}, {row['step']} step on {row['topology']}: {row['chips']} chips, "
        f"{row['batch_per_chip']} faces per chip",
        f"  memory per chip    {row['peak_bytes'] / giga:8.2f} GB "
        f"of {row['hbm_bytes'] / giga:.2f} GB: "
        f"arguments {row['argument_bytes'] / giga:.2f}, "
        f"temporaries {row['temporary_bytes'] / giga:.2f}",
    ]
    if row["flops"] is not None:
        lines += [
            f"  compute per step   {row['flops'] / giga:8.1f} GFLOP",
            f"  memory traffic     {row['bytes_accessed'] / giga:8.2f} GB",
        ]
    lines += [
        f"  {kind:<18} {size / 1e6:8.2f} MB" for kind, size in sorted(row["collectives"].items())
    ]
    if row.get("cycles"):
        lines.append(f"  estimated cycles   {row['cycles'] / 1e6:8.1f} million (the compiler's)")
    if row.get("bound"):
        lines.append(
            f"  estimated roofline {1e3 * row['compute_seconds']:8.2f} ms compute, "
            f"{1e3 * row['memory_seconds']:.2f} ms memory: bound by {row['bound']}"
        )
    lines.append(f"  compiled in        {row['compile_seconds']:8.0f} s; nothing was run")
    return "\n".join(lines)


def lower(program: Program, step: str) -> jax.stages.Lowered:
    """Lowers one of `STEPS`."""
    if step == "train":
        return program.lower_train_step()
    return program.lower_eval_step() if step == "eval" else program.lower_init()


def _estimated_cycles(text: str) -> int | None:
    """Sums libtpu's estimates over the operations of a program; None where there are none."""
    cycles = [int(found) for found in re.findall(r'"estimated_cycles":"(\d+)"', text)]
    return sum(cycles) or None


def _roofline(row: dict[str, Any], topology: Topology) -> dict[str, Any]:
    """Least time of a step by the data sheet, for compute and for memory traffic."""
    if row["flops"] is None:
        return {}
    chip = CHIPS[topology.chip]
    compute = row["flops"] / chip.peak_flops
    memory = row["bytes_accessed"] / chip.hbm_bytes_per_second
    return {
        "compute_seconds": compute,
        "memory_seconds": memory,
        "bound": "compute" if compute > memory else "memory",
    }


def _advice(
    config: ml_collections.ConfigDict, topology: Topology, needed: str, available: str
) -> str:
    """The sentence for a program that does not fit."""
    batch_size, choices = config.data.batch_size, []
    if (per_chip := batch_size // topology.num_chips) > 1:
        parts = 2 * config.train.accumulate
        choices = [
            f"--config.data.batch_size={batch_size // 2} ({per_chip // 2} faces per chip)",
            f"--config.train.accumulate={parts} for the training step",
        ]
    if config.mesh.fsdp == 1 and topology.num_chips > 1:
        choices.append(f"--config.mesh.fsdp={min(8, topology.num_chips)}")
    return (
        f"does not fit {topology}: a chip needs {needed} and has {available}; try "
        f"{', '.join(choices) or 'a larger chip'}"
    )
