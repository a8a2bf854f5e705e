"""The cells of an ablation: their config overrides, and the runs (cell, seed and fold) to train."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from flax import traverse_util

from mgmtn_jax.attributes import AttributeSet, did_you_mean
from mgmtn_jax.data.storage import atomic_file
from mgmtn_jax.models.aml import PREDICTED_MASKS
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.runs.workdir import differing_fields

CELLS: dict[str, dict[str, str]] = {
    "global": {"model.name": "global"},
    "global_multiscale": {"model.name": "global_multiscale"},
    "uniform": {"model.masks": "uniform"},
    "+AML": {"model.fusion": "none"},
    "+AML+G2FF": {},
    "oracle": {"model.masks": "oracle"},
}
"""Cell -> overrides of the full network's config; `mgmtn_jax.models.mgmtn` describes them."""


class Run(NamedTuple):
    """One cell trained once.

    Attributes:
      cell: Name in `CELLS`, or FIELD=VALUE for another choice.
      repetition: Number of the training among those of the cell and fold, from 0.
      seed: Seed of the training.
      workdir: Working directory of the training.
      split: Split to evaluate; one of the folds in cross-validation.
      train_split: Split to train on; None for the config's.
    """

    cell: str
    repetition: int
    seed: int
    workdir: Path
    split: str
    train_split: str | None

    @property
    def overrides(self) -> dict[str, str | int]:
        """Config field -> value, where it differs from the full network."""
        overrides: dict[str, str | int] = {**cell_fields(self.cell), "train.seed": self.seed}
        if self.train_split is not None:
            overrides["data.train_split"] = self.train_split
            overrides["data.validation_split"] = self.split
        return overrides

    @property
    def evaluation(self) -> Path:
        """Folder of the finished evaluation."""
        return self.workdir / self.split


def cell_fields(cell: str) -> dict[str, str]:
    """Config field -> value of a cell: those of `CELLS`, or of FIELD=VALUE joined by semicolons.

    Raises:
      ValueError: If there is no such cell.
    """
    if cell in CELLS:
        return CELLS[cell]
    fields = dict(part.partition("=")[::2] for part in cell.split(";"))
    if "=" not in cell or not all(fields):
        raise ValueError(
            f"there is no cell {cell!r} among {', '.join(CELLS)}{did_you_mean(cell, CELLS)}; for "
            "another choice, write FIELD=VALUE, such as model.fusion=add"
        )
    return fields


def parse_seeds(cells: Sequence[str], seeds: Sequence[str]) -> dict[str, int]:
    """Parses the --seeds flag.

    Args:
      cells: Names of cells.
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
        if cell:
            cell_fields(cell)
    parsed = {cell: counts.get(cell, counts.get("", "")) for cell in cells}
    for cell, count in parsed.items():
        if not count.isdecimal() or int(count) < 1:
            raise ValueError(
                f"--seeds={','.join(seeds)} gives cell {cell} the number of seeds {count!r}; "
                "expected a whole number of at least 1"
            )
    return {cell: int(count) for cell, count in parsed.items()}


def plan(
    out: Path, seeds: Mapping[str, int], first_seed: int, split: str, num_folds: int = 0
) -> list[Run]:
    """Lists all runs: the first training of every cell, then the second.

    A table of all cells therefore exists early. With folds, each cell is trained once on the faces
    outside of every fold, with a seed of its own.

    Args:
      out: Output folder of the ablation.
      seeds: Cell -> number of trainings, for each fold.
      first_seed: First seed of each cell.
      split: Split to evaluate, or to deal into folds.
      num_folds: Number of folds; 0 trains on the config's own split.
    """
    runs = []
    for repetition in range(max(seeds.values())):
        for fold in range(max(num_folds, 1)):
            seed = first_seed + repetition * max(num_folds, 1) + fold
            part = f"{fold + 1}of{num_folds}"
            name = f"fold-{part}-seed-{seed}" if num_folds else f"seed-{seed}"
            for cell, count in seeds.items():
                if repetition < count:
                    workdir = out / cell.strip("+").replace("+", "-").lower() / name
                    judged, trained = (
                        (f"{split}@{part}", f"{split}@not{part}") if num_folds else (split, None)
                    )
                    runs.append(Run(cell, repetition, seed, workdir, judged, trained))
    return runs


def check(
    config: ml_collections.ConfigDict, attribute_set: AttributeSet, cells: Iterable[str]
) -> None:
    """Checks before the first training that the network of every cell can be built.

    Raises:
      ValueError: If `config` is not of the full network, a cell sets a field that it does not have
        or to a value of another type, or a cell's network cannot be built.
    """
    model = config.model
    if model.name != "mgmtn" or model.masks not in PREDICTED_MASKS or model.fusion == "none":
        raise ValueError(
            "an ablation starts from the full network and removes parts itself, but the config has "
            f"model.name={model.name}, model.masks={model.masks}, model.fusion={model.fusion}: "
            f"choose mgmtn, masks from {', '.join(PREDICTED_MASKS)}, and a fusion other than none"
        )
    for cell in cells:
        network_builder(changed_config(config, cell_fields(cell)), attribute_set)


def changed_config(
    config: ml_collections.ConfigDict, overrides: Mapping[str, str | int]
) -> ml_collections.ConfigDict:
    """A copy of a config with some fields changed, as the command line changes them.

    Raises:
      ValueError: If a field does not exist, or has another type.
    """
    changed = config.copy_and_resolve_references()
    fields = traverse_util.flatten_dict(config.to_dict(), sep=".")
    for field, value in overrides.items():
        if field not in fields:
            raise ValueError(f"there is no config field {field}{did_you_mean(field, fields)}")
        current = fields[field]
        try:
            if isinstance(current, bool):
                value = {"true": True, "false": False}[str(value).lower()]
            changed.update_from_flattened_dict({field: type(current)(value)})
        except (KeyError, ValueError):
            raise ValueError(
                f"{field}={value} is not of the type of {current!r}, the value in the config"
            ) from None
    return changed


def finished(runs: Sequence[Run]) -> tuple[dict[str, list[list[Path]]], list[str]]:
    """The finished evaluations that can be compared.

    In cross-validation these are the folds that every cell has finished that has begun, so that all
    cells are judged on the same faces. A repetition counts once it has finished these folds.

    Returns:
      Cell -> for each repetition, the folders of its evaluations, and the splits that they cover.
    """
    done = [run for run in runs if run.evaluation.exists()]
    cells = list(dict.fromkeys(run.cell for run in done))
    splits = [
        split
        for split in dict.fromkeys(run.split for run in runs)
        if cells and {run.cell for run in done if run.split == split} >= set(cells)
    ]
    found: dict[str, list[list[Path]]] = {}
    for cell in cells if splits else []:
        for repetition in sorted({run.repetition for run in done if run.cell == cell}):
            mine = {r.split: r for r in done if (r.cell, r.repetition) == (cell, repetition)}
            if all(split in mine for split in splits):
                found.setdefault(cell, []).append([mine[split].evaluation for split in splits])
    return found, splits


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
