"""The report: one HTML page that needs no other file and no network.

Pictures are embedded as data URIs, plots as inline SVG, and everything a reader can switch works by
CSS alone, except sorting the table.
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

from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.evaluation import curves
from mgmtn_jax.evaluation.formatting import format_number
from mgmtn_jax.report import pictures, plots

_CURVES = {
    "loss": "Loss, all terms",
    "attribute_loss": "Loss, attributes",
    "mask_loss": "Loss, masks",
    "accuracy": "Mean accuracy, %",
    "learning_rate": "Learning rate",
}
_MAX_CURVE_POINTS = 400
_TOP_ATTRIBUTES = 6
_MISSED_ATTRIBUTES = 4


@dataclasses.dataclass(frozen=True)
class SheetFace:
    """One face of a sheet.

    Attributes:
      image: the aligned crop, RGB.
      masks: probability of each region of `REGIONS`, at any resolution; None without masks.
      probabilities: of yes, per attribute.
      labels: 1 yes, 0 no, -1 unknown.
      key: what the data set calls the image.
      question: the attribute for which the face is on the sheet, if it is one.
    """

    image: UInt8[np.ndarray, "S S 3"]
    masks: Float[np.ndarray, "M M 8"] | None
    probabilities: Float[np.ndarray, "A"]
    labels: Int[np.ndarray, "A"]
    key: str
    question: str | None = None


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Faces with a reason to be looked at together.

    Attributes:
      title: of the section.
      text: what they are, in a sentence.
      faces: in order.
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
    """Writes `index.html` into a folder and returns its path.

    Args:
      out_dir: made if missing; may be a `gs://` address.
      title: of the page.
      metrics: what `metrics.summarize` returns; if there are `slices`, what
        `slices.accuracy_gaps` does, if there is `tuned`, what `thresholds.figures`
        does and the split they were tuned on, and if there is `against`, a comparison.
      probabilities: what the metrics are of, for the curves.
      labels: the labels: 1 yes, 0 no, -1 unknown.
      history: rows of `metrics.jsonl`: `step`, `split` and any scalars; known ones are plotted.
      sheets: About 15 KB a face: 24 are a good number for one, 250 in all reach 5 MB.
      provenance: what a reader needs to get the same figures, as label -> text, number or mapping.
        Mappings, such as the configuration, start folded.
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
        curves=_curves(history),
        quality=_quality(metrics, probabilities, labels),
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
    environment.filters["words"] = lambda name: name.replace("_", " ")
    return environment


def _difference(value: float | None, baseline: float | None) -> float | None:
    return None if value is None or baseline is None else value - baseline


def _scale_start(metrics: Mapping[str, Any]) -> int:
    """Where the headline's scale begins: the ten below everything it shows, in percent."""
    shown = [metrics["mean_accuracy"], metrics["majority_accuracy"]]
    lowest = min((value for value in shown if value is not None), default=0)
    return max(0, int((lowest - 5) // 10) * 10)


def _face_view(face: SheetFace, names: Sequence[str]) -> dict[str, Any]:
    """What the sheet shows of one face."""
    answers: list[dict[str, Any]] = [
        {
            "name": name,
            "percent": 100 * float(probability),
            "mark": "unknown"
            if label < 0
            else "right"
            if (probability >= 0.5) == label
            else "wrong",
        }
        for name, probability, label in zip(names, face.probabilities, face.labels, strict=True)
    ]
    asked: dict[str, Any] | None = None
    if face.question is not None:
        index = names.index(face.question)
        asked = {**answers[index], "label": "yes" if face.labels[index] else "no"}
    others = [answer for answer in answers if answer["name"] != face.question]
    surest_yes = sorted(others, key=lambda answer: -answer["percent"])
    top = [answer for answer in surest_yes if answer["percent"] >= 50][:_TOP_ATTRIBUTES]
    missed = [a for a in surest_yes if a["mark"] == "wrong" and a not in top]
    known = [answer for answer in answers if answer["mark"] != "unknown"]
    return {
        "key": face.key,
        "asked": asked,
        "picture": pictures.picture_uri(face.image),
        "masks": {}
        if face.masks is None
        else {
            region: pictures.mask_uri(face.masks[..., channel], pictures.REGION_COLORS[region])
            for channel, region in enumerate(REGIONS)
        },
        "top": top,
        "missed": missed[:_MISSED_ATTRIBUTES],
        "more_missed": len(missed[_MISSED_ATTRIBUTES:]),
        "num_right": sum(answer["mark"] == "right" for answer in known),
        "num_known": len(known),
    }


def _curves(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One plot per known scalar of the history."""
    plotted = []
    for field, label in _CURVES.items():
        lines: dict[str, list[tuple[int, float]]] = {}
        for split in plots.SPLIT_COLORS:
            points = [
                (row["step"], row[field])
                for row in history
                if row.get("split") == split and row.get(field) is not None
            ]
            if points:
                lines[split] = sorted(points)[:: 1 + len(points) // _MAX_CURVE_POINTS]
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


def _quality(
    metrics: Mapping[str, Any],
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
) -> dict[str, Any]:
    """Precision against recall and reliability, of all attributes together and of each."""
    lines, each = [], []
    for a, (name, row) in enumerate(metrics["per_attribute"].items()):
        precision_recall = curves.precision_recall(probabilities[:, a], labels[:, a])
        if not len(precision_recall[0]):
            continue  # An attribute without a yes has neither.
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
