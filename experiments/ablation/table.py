"""The table of an ablation: as Markdown, as CSV and as a plot."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from etils import epath
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from mgmtn_jax.data import data_sets, pipeline, schema
from mgmtn_jax.evaluation import comparison
from mgmtn_jax.evaluation.formatting import format_number

_INK, _FAINT = "#0072b2", "#999999"


@dataclasses.dataclass(frozen=True)
class Row:
    """Metrics of one cell. Accuracies are in percent, and None where undefined.

    Attributes:
      cell: Name of the cell.
      accuracies: Mean accuracy over attributes, for each seed.
      balanced_accuracy: Mean over seeds, as are the metrics below.
      difference: Difference to the first row in points, with its interval; None in the first row.
      mask_iou: Mean over regions, a fraction; None for a network that predicts no masks.
      per_group: Group -> accuracy.
    """

    cell: str
    accuracies: tuple[float, ...]
    balanced_accuracy: float | None
    difference: comparison.Difference | None
    mask_iou: float | None
    per_group: Mapping[str, float | None]

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for a single seed."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else None


class LabelledSplit(NamedTuple):
    """The faces that the table compares networks on.

    Attributes:
      keys: Key of each face.
      labels: 1 positive, 0 negative, -1 unknown.
    """

    keys: list[str]
    labels: Int[np.ndarray, "N A"]


def read_labels(data_dir: epath.PathLike, split: str) -> LabelledSplit:
    """Reads the keys and labels of a split.

    Raises:
      ValueError: If no label is known, or `data_dir` names several data sets.
    """
    if len(data_sets.folders(data_dir)) > 1:
        raise ValueError(f"an ablation is judged on one data set, not on {os.fspath(data_dir)}")
    records = list(pipeline.read_records(data_dir, split))
    labels = np.array([record.labels for record in records])
    if not (labels != schema.UNKNOWN).any():
        raise ValueError(f"split {split!r} of {data_dir} has no known label, so nothing to compare")
    return LabelledSplit([record.key for record in records], labels)


def summarize(evaluated: Mapping[str, Sequence[Path]], split: LabelledSplit) -> list[Row]:
    """Computes the table, one row per cell.

    Args:
      evaluated: Cell -> output folders of `experiments.evaluate`, one per seed. The others are
        compared with the first cell.
      split: The faces that were evaluated.

    Raises:
      ValueError: If a folder holds predictions of other faces.
    """
    baseline = next(iter(evaluated))
    correct = {
        cell: np.mean([_read_correctness(folder, split) for folder in folders], axis=0)
        for cell, folders in evaluated.items()
    }
    rows = []
    for cell, folders in evaluated.items():
        summaries = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
        difference = comparison.paired_bootstrap(correct[baseline], correct[cell])
        rows.append(
            Row(
                cell,
                accuracies=tuple(summary["mean_accuracy"] for summary in summaries),
                balanced_accuracy=_mean(s["mean_balanced_accuracy"] for s in summaries),
                difference=None if cell == baseline else difference,
                mask_iou=_mean(summary["mean_mask_miou"] for summary in summaries),
                per_group={
                    group: _mean(summary["per_group"][group]["accuracy"] for summary in summaries)
                    for group in summaries[0]["per_group"]
                },
            )
        )
    return rows


def write(out_dir: Path, rows: Sequence[Row], *, title: str, provenance: Mapping[str, str]) -> None:
    """Writes `ablation.md`, `ablation.csv` and `ablation.svg`.

    Args:
      out_dir: Output folder.
      rows: The rows; the others are compared with the first.
      title: Title of the table.
      provenance: Facts needed to reproduce the table, as label -> text.
    """
    (out_dir / "ablation.md").write_text(_markdown(rows, title, provenance))
    with (out_dir / "ablation.csv").open("w", newline="") as file:
        table = [_fields(row) for row in rows]
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    _draw(out_dir / "ablation.svg", rows, title)


def _read_correctness(folder: Path, split: LabelledSplit) -> Float[np.ndarray, "N A"]:
    keys, _, probabilities = comparison.read_predictions(folder / "predictions.csv")
    if keys != split.keys:
        raise ValueError(
            f"{folder} holds predictions of other faces than the dataset does now: "
            "remove it and run the same command again"
        )
    return comparison.correctness(probabilities, split.labels)


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean over seeds; None where the metric is undefined, which is then so for every seed."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _markdown(rows: Sequence[Row], title: str, provenance: Mapping[str, str]) -> str:
    baseline, groups = rows[0].cell, list(rows[0].per_group)
    header = ["network", "seeds", "accuracy", "balanced", f"above {baseline}", "mask IoU", *groups]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for row in rows:
        spread = "" if row.deviation is None else f" ± {row.deviation:.2f}"
        lines.append(
            [
                row.cell,
                str(len(row.accuracies)),
                f"{row.accuracy:.2f}{spread}",
                format_number(row.balanced_accuracy, 2),
                "–"
                if row.difference is None
                else "{:+z.2f} [{:+z.2f}, {:+z.2f}]".format(*row.difference),
                format_number(row.mask_iou, 3),
                *(format_number(row.per_group[group], 2) for group in groups),
            ]
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    facts = "\n".join(f"- {label}: {text}" for label, text in provenance.items())
    return f"""# {title}

Accuracies are in percent: unweighted means over attributes, then over seeds; ± is the standard
deviation over seeds. "above {baseline}" is the difference in points with a 95 % interval, from a
paired bootstrap over images of the mean over seeds. The columns on the right are per group.

{table}

{facts}
"""


def _fields(row: Row) -> dict[str, str | int | float | None]:
    """A row of the CSV file; undefined metrics are empty fields."""
    difference = row.difference or (None, None, None)
    metrics = {
        "mean_accuracy": row.accuracy,
        "standard_deviation": row.deviation,
        "mean_balanced_accuracy": row.balanced_accuracy,
        **dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True)),
        "mean_mask_miou": row.mask_iou,
        **{f"accuracy_{group}": accuracy for group, accuracy in row.per_group.items()},
    }
    rounded = {k: None if v is None else round(v, 4) for k, v in metrics.items()}
    return {"cell": row.cell, "seeds": len(row.accuracies), **rounded}


def _draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """Plots the difference of each row to the first with its interval, and a dot for every seed."""
    baseline = rows[0]
    with matplotlib.rc_context({"svg.hashsalt": "mgmtn", "font.size": 9}):
        figure = Figure(figsize=(7, 1.2 + 0.4 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=_FAINT, linewidth=0.8)
        for y, row in enumerate(rows):
            seeds = np.array(row.accuracies) - baseline.accuracy
            axes.plot(seeds, np.full(len(seeds), y + 0.2), "o", color=_FAINT, markersize=3)
            if row.difference is not None:
                axes.plot(row.difference[1:], (y, y), color=_INK, linewidth=1.6)
            axes.plot(row.accuracy - baseline.accuracy, y, "o", color=_INK, markersize=6)
            axes.annotate(
                f"{row.accuracy:.2f} %", (1.01, y), xycoords=("axes fraction", "data"), va="center"
            )
        axes.set_yticks(range(len(rows)), [row.cell for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(f"points of mean accuracy above {baseline.cell}, 95 % interval over images")
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.2)
        axes.spines[["top", "right", "left"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
