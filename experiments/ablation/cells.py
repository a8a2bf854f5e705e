"""The cells of an ablation: their config overrides, and the runs (cell and seed) to train."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from mgmtn_jax.attributes import AttributeSet, did_you_mean
from mgmtn_jax.data.storage import atomic_file
from mgmtn_jax.models.aml import MASK_PARTS
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.runs.workdir import differing_fields

CELLS: dict[str, dict[str, str]] = {
    "global": {"model.name": "global", "model.mask_training": "stop_gradient"},
    "global_multiscale": {
        "model.name": "global_multiscale",
        "model.mask_training": "stop_gradient",
    },
    "uniform": {"model.masks": "uniform", "model.mask_training": "stop_gradient"},
    "+AML": {"model.fusion": "none"},
    "+AML+G2FF": {},
    "oracle": {"model.masks": "oracle", "model.mask_training": "stop_gradient"},
}
"""Cell -> overrides of the full network's config; `mgmtn_jax.models.mgmtn` describes the networks.
Cells that train no masks use `stop_gradient`, because two-stage training needs masks."""


class Run(NamedTuple):
    """One cell trained with one seed.

    Attributes:
      cell: Name in `CELLS`.
      seed: Seed of the training.
      workdir: Working directory of the training.
    """

    cell: str
    seed: int
    workdir: Path

    @property
    def overrides(self) -> dict[str, str | int]:
        """Config field -> value, where it differs from the full network."""
        return {**CELLS[self.cell], "train.seed": self.seed}


def parse_seeds(cells: Sequence[str], seeds: Sequence[str]) -> dict[str, int]:
    """Parses the --seeds flag.

    Args:
      cells: Names in `CELLS`.
      seeds: A number for all cells, and CELL:NUMBER for exceptions.

    Returns:
      Cell -> number of seeds, in the order of `cells`.

    Raises:
      ValueError: If a cell is unknown, or has no positive number of seeds.
    """
    counts: dict[str, str] = {}
    for item in seeds:
        cell, _, count = item.rpartition(":")
        counts[cell] = count
    for cell in [*cells, *counts]:
        if cell and cell not in CELLS:
            raise ValueError(
                f"there is no cell {cell!r} among {', '.join(CELLS)}{did_you_mean(cell, CELLS)}"
            )
    parsed = {cell: counts.get(cell, counts.get("", "")) for cell in cells}
    for cell, count in parsed.items():
        if not count.isdecimal() or int(count) < 1:
            raise ValueError(
                f"--seeds={','.join(seeds)} gives cell {cell} the number of seeds {count!r}; "
                "expected a whole number of at least 1"
            )
    return {cell: int(count) for cell, count in parsed.items()}


def plan(out: Path, seeds: Mapping[str, int], first_seed: int) -> list[Run]:
    """Lists all runs, ordered by seed, so that a table of all cells exists after the first seed.

    Args:
      out: Output folder of the ablation.
      seeds: Cell -> number of seeds.
      first_seed: First seed of each cell.
    """
    return [
        Run(cell, seed, out / cell.strip("+").replace("+", "-").lower() / f"seed-{seed}")
        for seed in range(first_seed, first_seed + max(seeds.values()))
        for cell, count in seeds.items()
        if seed < first_seed + count
    ]


def check(
    config: ml_collections.ConfigDict, attribute_set: AttributeSet, cells: Iterable[str]
) -> None:
    """Checks before the first training that the network of every cell can be built.

    Raises:
      ValueError: If `config` is not of the full network, or a cell's network cannot be built.
    """
    model = config.model
    if model.name != "mgmtn" or model.masks not in MASK_PARTS or model.fusion == "none":
        raise ValueError(
            "an ablation starts from the full network and removes parts itself, but the config has "
            f"model.name={model.name}, model.masks={model.masks}, model.fusion={model.fusion}: "
            f"choose mgmtn, masks from {', '.join(MASK_PARTS)}, and a fusion other than none"
        )
    for cell in cells:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(CELLS[cell])
        network_builder(changed, attribute_set)


def claim(out: Path, metadata: Mapping[str, Any]) -> None:
    """Writes OUT/config.json, or checks that an existing one belongs to the same ablation.

    The ablation never asks JAX for devices or processes: initializing a backend would reserve the
    devices that its child processes train on.

    Args:
      out: Output folder of the ablation.
      metadata: Metadata of the full network's run (`run_metadata`).

    Raises:
      ValueError: If the folder holds another ablation; the message lists the differing fields.
    """
    path = out / "config.json"
    if path.exists():
        differing = differing_fields(json.loads(path.read_text()), metadata)
        if differing:
            raise ValueError(f"{out} holds another ablation: {'; '.join(differing)}")
    with atomic_file(path) as file:
        file.write(json.dumps(metadata, indent=1).encode())
