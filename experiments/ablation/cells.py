"""The cells of an ablation: what each changes in the config, and which trainings fill them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from mgmtn_jax.attributes import AttributeSet
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
"""Cell -> what it changes in the config of the full network; `mgmtn_jax.models.mgmtn` says what the
cells are. Two stages need masks to train, so cells without any are trained in one."""


class Run(NamedTuple):
    """One training, and where it lies."""

    cell: str
    seed: int
    workdir: Path

    @property
    def overrides(self) -> dict[str, str | int]:
        """Config field -> its value, where it is not that of the full network."""
        return {**CELLS[self.cell], "train.seed": self.seed}


def parse_seeds(cells: Sequence[str], seeds: Sequence[str]) -> dict[str, int]:
    """Cell -> number of seeds, in the order of `cells`.

    Args:
      cells: names in `CELLS`.
      seeds: a number for all cells, and CELL:NUMBER for those that have another.

    Raises:
      ValueError: for an unknown cell, and for a number of seeds that is missing or not a number.
    """
    counts: dict[str, str] = {}
    for item in seeds:
        cell, _, count = item.rpartition(":")
        counts[cell] = count
    for cell in [*cells, *counts]:
        if cell and cell not in CELLS:
            raise ValueError(f"there is no cell {cell!r}, only {', '.join(CELLS)}")
    parsed = {cell: counts.get(cell, counts.get("", "")) for cell in cells}
    for cell, count in parsed.items():
        if not count.isdecimal() or int(count) < 1:
            raise ValueError(f"--seeds={','.join(seeds)} gives {cell} no number of seeds above 0")
    return {cell: int(count) for cell, count in parsed.items()}


def plan(out: Path, seeds: Mapping[str, int], first_seed: int) -> list[Run]:
    """All trainings, one seed of every cell before the second of any: the table is soon complete.

    Args:
      out: the folder of the ablation.
      seeds: cell -> number of seeds.
      first_seed: of each cell.
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
    """Finds out before the first training whether all can be built.

    Raises:
      ValueError: if the config is not one of the full network, or a cell does not build.
    """
    model = config.model
    if model.name != "mgmtn" or model.masks not in MASK_PARTS or model.fusion == "none":
        raise ValueError(
            "an ablation starts from the full network, and takes parts away itself: model.name="
            f"{model.name}, model.masks={model.masks}, model.fusion={model.fusion} are not that"
        )
    for cell in cells:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(CELLS[cell])
        network_builder(changed, attribute_set)


def claim(out: Path, metadata: Mapping[str, Any]) -> None:
    """Writes `config.json`, or checks that the one there belongs to the same ablation.

    Like all of the ablation, without a question to JAX about devices or processes: it would take
    hold of the devices, and they belong to the trainings.

    Raises:
      ValueError: if it belongs to another, with the fields that differ.
    """
    path = out / "config.json"
    if path.exists():
        differing = differing_fields(json.loads(path.read_text()), metadata)
        if differing:
            raise ValueError(f"{out} holds another ablation: {'; '.join(differing)}")
    with atomic_file(path) as file:
        file.write(json.dumps(metadata, indent=1).encode())
