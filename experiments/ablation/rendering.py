"""The table of an ablation: as Markdown, as CSV and as a plot."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.ablation.table import Row
from mgmtn_jax.evaluation.formatting import format_number

_INK, _FAINT = "#0072b2", "#999999"


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
        fields = [_fields(row) for row in rows]
        writer = csv.DictWriter(file, fields[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(fields)
    _draw(out_dir / "ablation.svg", rows, title)


def _markdown(rows: Sequence[Row], title: str, provenance: Mapping[str, str]) -> str:
    baseline, groups = rows[0].cell, list(rows[0].per_group)
    header = ["network", "seeds", "accuracy", "balanced", "ECE", f"above {baseline}"]
    header += ["mask IoU", *groups]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for row in rows:
        spread = "" if row.deviation is None else f" ± {row.deviation:.2f}"
        lines.append(
            [
                row.cell,
                str(len(row.accuracies)),
                f"{row.accuracy:.2f}{spread}",
                format_number(row.balanced_accuracy, 2),
                format_number(row.calibration_error, 2),
                "–"
                if row.difference is None
                else "{:+z.2f} [{:+z.2f}, {:+z.2f}]".format(*row.difference),
                _describe_iou(row),
                *(format_number(row.per_group[group], 2) for group in groups),
            ]
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    facts = "\n".join(f"- {label}: {text}" for label, text in provenance.items())
    return f"""# {title}

Accuracies are in percent: unweighted means over attributes, then over seeds; ± is the standard
deviation over seeds. ECE is the expected calibration error in percent. "above {baseline}" is the
difference in points with a 95 % interval, from a paired bootstrap over persons of the mean over
seeds. Mask IoU is the mean over regions, with the lowest behind it. The columns on the right are
accuracies per group.

{table}

{facts}
"""


def _describe_iou(row: Row) -> str:
    if not row.mask_iou:
        return "–"
    lowest = min(row.mask_iou, key=row.mask_iou.__getitem__)
    return f"{row.mean_mask_iou:.3f}, {lowest} {row.mask_iou[lowest]:.3f}"


def _fields(row: Row) -> dict[str, str | int | float | None]:
    """A row of the CSV file; undefined metrics are empty fields."""
    difference = row.difference or (None, None, None)
    metrics = {
        "mean_accuracy": row.accuracy,
        "standard_deviation": row.deviation,
        "mean_balanced_accuracy": row.balanced_accuracy,
        **dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True)),
        "mean_calibration_error": row.calibration_error,
        "mean_mask_miou": row.mean_mask_iou,
        "lowest_mask_iou": min(row.mask_iou.values(), default=None),
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
        axes.set_xlabel(
            f"points of mean accuracy above {baseline.cell}, 95 % interval over persons"
        )
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.2)
        axes.spines[["top", "right", "left"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
