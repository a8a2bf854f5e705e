"""The metrics of an ablation, one row for each cell."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float, Int, Int64

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import data_sets, pipeline, schema
from mgmtn_jax.evaluation import comparison, metrics
from mgmtn_jax.evaluation.counts import mean_defined


@dataclasses.dataclass(frozen=True)
class Row:
    """Metrics of one cell. Accuracies are in percent, and None where undefined.

    Attributes:
      cell: Name of the cell.
      accuracies: Mean accuracy over attributes, for each seed; in cross-validation over the faces
        of all folds.
      balanced_accuracy: Mean over seeds, as are the metrics below.
      calibration_error: Expected calibration error in percent, mean over attributes.
      difference: Difference to the first row in points, with its interval; None in the first row.
      mask_iou: Region -> fraction; empty for a network that predicts no masks.
      per_group: Group -> accuracy.
    """

    cell: str
    accuracies: tuple[float, ...]
    balanced_accuracy: float | None
    calibration_error: float | None
    difference: comparison.Difference | None
    mask_iou: Mapping[str, float]
    per_group: Mapping[str, float | None]

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for a single seed."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else None

    @property
    def mean_mask_iou(self) -> float | None:
        """Mean over regions."""
        return _mean(self.mask_iou.values())


class LabelledSplit(NamedTuple):
    """The faces that the table compares networks on.

    Attributes:
      keys: Key of each face.
      labels: 1 positive, 0 negative, -1 unknown.
      persons: The person on each face.
      attribute_set: Names and groups of the labels.
    """

    keys: list[str]
    labels: Int[np.ndarray, "N A"]
    persons: Int64[np.ndarray, "N"]
    attribute_set: AttributeSet


class Table(NamedTuple):
    """The rows, and the number of faces and persons that they are judged on."""

    rows: list[Row]
    num_faces: int
    num_persons: int


def read_labels(data_dir: epath.PathLike, split: str) -> LabelledSplit:
    """Reads the keys, labels and persons of a split.

    Raises:
      ValueError: If no label is known, or `data_dir` names several data sets.
    """
    if len(data_sets.folders(data_dir)) > 1:
        raise ValueError(f"an ablation is judged on one data set, not on {os.fspath(data_dir)}")
    records = list(pipeline.read_records(data_dir, split))
    labels = np.array([record.labels for record in records])
    if not (labels != schema.UNKNOWN).any():
        raise ValueError(f"split {split!r} of {data_dir} has no known label, so nothing to compare")
    persons = data_sets.split_persons(data_dir, split, np.arange(len(records)))
    attribute_set = data_sets.load_attribute_set(data_dir)
    return LabelledSplit([record.key for record in records], labels, persons, attribute_set)


def summarize(evaluated: Mapping[str, Sequence[Sequence[Path]]], split: LabelledSplit) -> Table:
    """Computes the table, one row per cell.

    Args:
      evaluated: Cell -> for each seed, the output folders of `experiments.evaluate`: one, or one
        for each fold. All seeds of all cells cover the same faces. The others are compared with
        the first cell.
      split: The faces that were evaluated, or more.

    Raises:
      ValueError: If a folder holds predictions of other faces.
    """
    baseline = next(iter(evaluated))
    judged, _ = _read_predictions(evaluated[baseline][0], split)
    labels, persons = split.labels[judged], split.persons[judged]
    rows, baseline_correct = [], None
    for cell, seeds in evaluated.items():
        found = [_read_predictions(folders, split) for folders in seeds]
        if not all(np.array_equal(faces, judged) for faces, _ in found):
            raise ValueError(_other_faces(seeds[0][0]))
        probabilities = [predicted for _, predicted in found]
        correct = np.mean([comparison.correctness(p, labels) for p in probabilities], axis=0)
        if baseline_correct is None:
            baseline_correct = correct
        difference = comparison.paired_bootstrap(baseline_correct, correct, persons=persons)
        measured = [metrics.attribute_metrics(p, labels) for p in probabilities]
        rows.append(
            Row(
                cell,
                accuracies=tuple(float(mean_defined(values["accuracy"])) for values in measured),
                balanced_accuracy=_mean_of(measured, "balanced_accuracy"),
                calibration_error=_mean_of(measured, "calibration_error"),
                difference=None if cell == baseline else difference,
                mask_iou=_mask_iou([folder for folders in seeds for folder in folders]),
                per_group={
                    group: _mean_of(measured, "accuracy", list(members))
                    for group, members in zip(
                        split.attribute_set.group_names,
                        split.attribute_set.group_indices,
                        strict=True,
                    )
                },
            )
        )
    return Table(rows, len(labels), len(np.unique(persons)))


def _read_predictions(
    folders: Sequence[Path], split: LabelledSplit
) -> tuple[Int64[np.ndarray, "N"], Float[np.ndarray, "N A"]]:
    """The positions in the split of the faces that some evaluations cover, and the predictions."""
    places = {key: place for place, key in enumerate(split.keys)}
    found: list[int] = []
    predicted = []
    for folder in folders:
        keys, names, probabilities = comparison.read_predictions(folder / "predictions.csv")
        if names != list(split.attribute_set.names) or not places.keys() >= set(keys):
            raise ValueError(_other_faces(folder))
        found += [places[key] for key in keys]
        predicted.append(probabilities)
    order = np.argsort(found)
    return np.array(found)[order], np.concatenate(predicted)[order]


def _other_faces(folder: Path) -> str:
    return (
        f"{folder} holds predictions of other faces than the dataset does now: "
        "remove it and run the same command again"
    )


def _mask_iou(folders: Sequence[Path]) -> dict[str, float]:
    """Region -> mean over evaluations."""
    measured = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    found = [summary["mask_miou"] for summary in measured]
    return {
        region: mean
        for region in found[0]
        if (mean := _mean(iou.get(region) for iou in found)) is not None
    }


def _mean_of(
    measured: Sequence[Mapping[str, np.ndarray]], name: str, attributes: list[int] | None = None
) -> float | None:
    """Mean of a metric over attributes, then over seeds."""
    chosen = slice(None) if attributes is None else attributes
    return _mean(float(mean_defined(values[name][chosen])) for values in measured)


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are defined; None if there is none."""
    known = [value for value in values if value is not None and not np.isnan(value)]
    return sum(known) / len(known) if known else None
