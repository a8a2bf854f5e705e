"""The evaluation report: one self-contained HTML page.

Images are embedded as data URIs and plots as inline SVG. All controls work by CSS alone, except
sorting of the attribute table.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from etils import epath
from jaxtyping import Float, Int, UInt8

from mgmtn_jax.attributes import DEFAULT_GROUP, REGIONS
from mgmtn_jax.evaluation import curves
from mgmtn_jax.evaluation.counts import THRESHOLD
from mgmtn_jax.evaluation.formatting import format_number
from mgmtn_jax.report import pictures, plots

_PLOTTED_SCALARS = {
    "loss": "Total loss",
    "attribute_loss": "Attribute loss",
    "mask_loss": "Mask loss",
    "accuracy": "Mean accuracy, %",
    "learning_rate": "Learning rate",
}
_MAX_PLOT_POINTS = 400
_MAX_POSITIVES = 6
_MAX_MISSED = 4


@dataclasses.dataclass(frozen=True)
class SheetFace:
    """One face of a sheet.

    Attributes:
      image: Aligned RGB crop.
      masks: Probability of each region of `REGIONS`, at any resolution; None without masks.
      probabilities: Predicted probability of each attribute.
      labels: 1 positive, 0 negative, -1 unknown.
      key: Key of the image in the data set.
      selected_for: Attribute whose prediction is the reason to show the face, if there is one.
    """

    image: UInt8[np.ndarray, "S S 3"]
    masks: Float[np.ndarray, "M M 8"] | None
    probabilities: Float[np.ndarray, "A"]
    labels: Int[np.ndarray, "A"]
    key: str
    selected_for: str | None = None


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A titled section of faces.

    Attributes:
      title: Title of the section.
      text: Sentence that describes the selection.
      faces: Faces in order.
    """

    title: str
    text: str
    faces: Sequence[SheetFace]


def write_report(
    out_dir: str | os.PathLike[str],
    *,
    title: str,
    metrics: Mapping[str, Any],
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
    history: Sequence[Mapping[str, Any]],
    sheets: Sequence[Sheet],
    provenance: Mapping[str, Any],
) -> epath.Path:
    """Renders the report and writes it as `index.html`.

    Args:
      out_dir: Folder to write; created if missing; may be a `gs://` URL.
      title: Title of the page.
      metrics: Content of `metrics.json`: the result of `metrics.summarize`, with the optional
        entries `slices` (from `slices.accuracy_gaps`), `tuned` (from `thresholds.tuned_metrics`,
        with `split` and `num_examples`) and `against` (a comparison).
      probabilities: Predicted probabilities behind the metrics, for the curves.
      labels: 1 positive, 0 negative, -1 unknown.
      history: Rows of `metrics.jsonl` with `step`, `split` and scalars; known scalars are plotted.
      sheets: Sheets of faces. A face takes about 15 KB, so 250 faces reach about 5 MB.
      provenance: Information for reproducing the metrics, label -> text, number or mapping.
        Mappings, such as the configuration, are shown collapsed.

    Returns:
      Path of the page.
    """
    names = list(metrics["per_attribute"])
    rows = [
        {"name": name, "gain": _difference(row["accuracy"], row["majority_accuracy"]), **row}
        for name, row in metrics["per_attribute"].items()
    ]
    for row in rows if "tuned" in metrics else ():
        row["tuned"] = metrics["tuned"]["per_attribute"][row["name"]]["balanced_accuracy"]
    rows.sort(key=lambda row: (row["gain"] is None, -(row["gain"] or 0)))
    gains = [abs(row["gain"]) for row in rows if row["gain"] is not None]
    page = _environment().get_template("report.html")
    html = page.render(
        title=title,
        metrics=metrics,
        gain=_difference(metrics["mean_accuracy"], metrics["majority_accuracy"]),
        scale_start=_scale_start(metrics),
        attributes=rows,
        largest_gain=max(gains, default=0) or 1,
        training_plots=_training_plots(history),
        quality=_quality_plots(metrics, probabilities, labels),
        sheets=[
            {
                "title": sheet.title,
                "text": sheet.text,
                "faces": [_face_view(face, names) for face in sheet.faces],
            }
            for sheet in sheets
            if sheet.faces
        ],
        regions=pictures.REGION_COLORS,
        facts={k: v for k, v in provenance.items() if not isinstance(v, Mapping)},
        folded={
            k: json.dumps(v, indent=2, default=str)
            for k, v in provenance.items()
            if isinstance(v, Mapping)
        },
    )
    path = epath.Path(out_dir) / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html)
    return path


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mgmtn_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["words"] = _words
    return environment


def _words(name: str) -> str:
    """The name of an attribute, group or region in words. `object`, the method's own term, is said
    in plain ones."""
    return "whole face" if name == DEFAULT_GROUP else name.replace("_", " ")


def _difference(value: float | None, baseline: float | None) -> float | None:
    return None if value is None or baseline is None else value - baseline


def _scale_start(metrics: Mapping[str, Any]) -> int:
    """Start of the headline's scale in percent: a multiple of ten below the values shown."""
    shown = [metrics["mean_accuracy"], metrics["majority_accuracy"]]
    lowest = min((value for value in shown if value is not None), default=0)
    return max(0, int((lowest - 5) // 10) * 10)


def _face_view(face: SheetFace, names: Sequence[str]) -> dict[str, Any]:
    """Template variables of one face."""
    predictions: list[dict[str, Any]] = []
    for name, probability, label in zip(names, face.probabilities, face.labels, strict=True):
        positive = bool(probability >= THRESHOLD)
        mark = "unknown" if label < 0 else "correct" if positive == label else "wrong"
        percent = 100 * float(probability)
        predictions.append({"name": name, "percent": percent, "positive": positive, "mark": mark})
    selected: dict[str, Any] | None = None
    if face.selected_for is not None:
        index = names.index(face.selected_for)
        label = "positive" if face.labels[index] else "negative"
        selected = {**predictions[index], "label": label}
    others = [row for row in predictions if row["name"] != face.selected_for]
    others.sort(key=lambda row: -row["percent"])
    positives = [row for row in others if row["positive"]][:_MAX_POSITIVES]
    missed = [row for row in others if row["mark"] == "wrong" and row not in positives]
    known = [row for row in predictions if row["mark"] != "unknown"]
    return {
        "key": face.key,
        "selected": selected,
        "picture": pictures.picture_uri(face.image),
        "masks": {}
        if face.masks is None
        else {
            region: pictures.mask_uri(face.masks[..., channel], pictures.REGION_COLORS[region])
            for channel, region in enumerate(REGIONS)
        },
        "positives": positives,
        "missed": missed[:_MAX_MISSED],
        "more_missed": len(missed[_MAX_MISSED:]),
        "num_correct": sum(row["mark"] == "correct" for row in known),
        "num_known": len(known),
    }


def _training_plots(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One plot for each known scalar of the history."""
    plotted = []
    for field, label in _PLOTTED_SCALARS.items():
        lines: dict[str, list[tuple[int, float]]] = {}
        for split in plots.SPLIT_COLORS:
            points = [
                (row["step"], row[field])
                for row in history
                if row.get("split") == split and row.get(field) is not None
            ]
            if points:
                lines[split] = sorted(points)[:: 1 + len(points) // _MAX_PLOT_POINTS]
        if lines:
            description = "; ".join(
                f"{split} from {points[0][1]:.4g} at step {points[0][0]} "
                f"to {points[-1][1]:.4g} at step {points[-1][0]}"
                for split, points in lines.items()
            )
            plotted.append(
                {
                    "label": label,
                    "splits": list(lines),
                    "description": f"{label}: {description}.",
                    "svg": plots.training(lines),
                }
            )
    return plotted


def _quality_plots(
    metrics: Mapping[str, Any],
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
) -> dict[str, Any]:
    """Precision-recall curves and reliability diagrams, of all attributes together and of each."""
    lines, each = [], []
    for a, (name, row) in enumerate(metrics["per_attribute"].items()):
        precision_recall = curves.precision_recall(probabilities[:, a], labels[:, a])
        if not len(precision_recall[0]):
            continue  # An attribute without a positive label has neither.
        lines.append((precision_recall, pictures.REGION_COLORS.get(row["group"], "#999999")))
        reliability = curves.reliability(probabilities[:, a], labels[:, a])
        each.append(
            {
                "name": name,
                "description": f"{name.replace('_', ' ')}: average precision "
                f"{format_number(row['average_precision'])}, calibration error "
                f"{format_number(row['calibration_error'])} percent.",
                "svg": plots.of_attribute(precision_recall, reliability),
            }
        )
    if not lines:
        return {}
    return {
        "precision_recall": plots.precision_recall(lines),
        "reliability": plots.reliability(curves.reliability(probabilities, labels)),
        "each": each,
    }
