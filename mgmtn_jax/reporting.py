"""The report: one HTML page that needs no other file and no network.

Pictures are embedded as data URIs, plots as inline SVG, and everything a reader can switch works by
CSS alone, except sorting the table.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import matplotlib
import numpy as np
from etils import epath
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from PIL import Image

from mgmtn_jax.attributes import REGIONS

REGION_COLORS: dict[str, str] = {
    "mouth": "#d55e00",
    "ear": "#f0e442",
    "lower_face": "#0072b2",
    "cheeks": "#cc79a7",
    "nose": "#009e73",
    "eyes": "#56b4e9",
    "hair": "#e69f00",
    "object": "#999999",
}
"""Okabe and Ito's palette, which stays distinct under the common kinds of color blindness."""

_CURVES = {
    "loss": "Loss, all terms",
    "attribute_loss": "Loss, attributes",
    "mask_loss": "Loss, masks",
    "accuracy": "Mean accuracy, %",
    "learning_rate": "Learning rate",
}
_SPLIT_COLORS = {"train": "#010203", "validation": "#010204"}
# Matplotlib knows no CSS, so it draws in colors that are then exchanged for the page's own.
_PAGE_COLORS = {
    "#010201": "currentColor",
    "#010203": "var(--train)",
    "#010204": "var(--validation)",
}
_MAX_CURVE_POINTS = 400
_PICTURE_SIZE = 176  # pixels; the sheet shows faces at 132 CSS pixels
_MASK_SIZE = 56
_MASK_LEVELS = 16
_TOP_ATTRIBUTES = 6
_MISSED_ATTRIBUTES = 4


@dataclasses.dataclass(frozen=True)
class FaceExample:
    """One face of the sheet.

    Attributes:
      image: the aligned crop, RGB.
      masks: probability of each region of `REGIONS`, at any resolution; None without masks.
      probabilities: of yes, per attribute.
      attributes: 1 yes, 0 no, -1 unknown.
      key: what the data set calls the image.
    """

    image: UInt8[np.ndarray, "S S 3"]
    masks: Float[np.ndarray, "M M 8"] | None
    probabilities: Float[np.ndarray, "A"]
    attributes: Int[np.ndarray, "A"]
    key: str


def write_report(
    out_dir: str | os.PathLike[str],
    *,
    title: str,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    faces: Sequence[FaceExample],
    provenance: Mapping[str, Any],
) -> epath.Path:
    """Writes `index.html` into a folder and returns its path.

    Args:
      out_dir: made if missing; may be a `gs://` address.
      title: of the page.
      metrics: what `mgmtn_jax.metrics.summarize` returns.
      history: rows of `metrics.jsonl`: `step`, `split` and any scalars; known ones are plotted.
      faces: for the sheet, in order. About 15 KB each: 24 are a good number, 250 reach 5 MB.
      provenance: what a reader needs to get the same figures, as label -> text, number or mapping.
        Mappings, such as the configuration, start folded.
    """
    names = list(metrics["per_attribute"])
    attributes = [
        {"name": name, "gain": _difference(row["accuracy"], row["majority_accuracy"]), **row}
        for name, row in metrics["per_attribute"].items()
    ]
    attributes.sort(key=lambda row: (row["gain"] is None, -(row["gain"] or 0)))
    gains = [abs(row["gain"]) for row in attributes if row["gain"] is not None]
    page = _environment().get_template("report.html")
    html = page.render(
        title=title,
        metrics=metrics,
        gain=_difference(metrics["mean_accuracy"], metrics["majority_accuracy"]),
        scale_start=_scale_start(metrics),
        attributes=attributes,
        largest_gain=max(gains, default=0) or 1,
        curves=_curves(history),
        faces=[_face_view(face, names) for face in faces],
        regions=REGION_COLORS,
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
        loader=jinja2.PackageLoader("mgmtn_jax"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure
    environment.filters["words"] = lambda name: name.replace("_", " ")
    return environment


def _figure(value: float | None, digits: int = 1, signed: bool = False) -> str:
    """A number for people; a dash where it is undefined, a true minus sign where it is negative."""
    if value is None:
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def _difference(value: float | None, baseline: float | None) -> float | None:
    return None if value is None or baseline is None else value - baseline


def _scale_start(metrics: Mapping[str, Any]) -> int:
    """Where the headline's scale begins: the ten below everything it shows, in percent."""
    shown = [metrics["mean_accuracy"], metrics["majority_accuracy"]]
    lowest = min((value for value in shown if value is not None), default=0)
    return max(0, int((lowest - 5) // 10) * 10)


def _face_view(face: FaceExample, names: Sequence[str]) -> dict[str, Any]:
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
        for name, probability, label in zip(names, face.probabilities, face.attributes, strict=True)
    ]
    surest_yes = sorted(answers, key=lambda answer: -answer["percent"])
    top = [answer for answer in surest_yes if answer["percent"] >= 50][:_TOP_ATTRIBUTES]
    missed = [a for a in surest_yes if a["mark"] == "wrong" and a not in top]
    known = [answer for answer in answers if answer["mark"] != "unknown"]
    return {
        "key": face.key,
        "picture": _picture_uri(face.image),
        "masks": {}
        if face.masks is None
        else {
            region: _mask_uri(face.masks[..., channel], REGION_COLORS[region])
            for channel, region in enumerate(REGIONS)
        },
        "top": top,
        "missed": missed[:_MISSED_ATTRIBUTES],
        "more_missed": len(missed[_MISSED_ATTRIBUTES:]),
        "num_right": sum(answer["mark"] == "right" for answer in known),
        "num_known": len(known),
    }


def _picture_uri(image: UInt8[np.ndarray, "S S 3"]) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def _mask_uri(mask: Float[np.ndarray, "M M"], color: str) -> str:
    """A mask as a picture of one color whose opacity is the probability, in a few hundred bytes."""
    alpha = Image.fromarray(np.round(255 * np.clip(mask, 0, 1)).astype(np.uint8))
    alpha.thumbnail((_MASK_SIZE, _MASK_SIZE), Image.Resampling.BOX)
    levels = np.asarray(alpha) // (256 // _MASK_LEVELS)
    picture = Image.frombytes("P", alpha.size, levels.tobytes())
    picture.putpalette(bytes.fromhex(color[1:]) * _MASK_LEVELS)
    opacity = bytes(level * 255 // (_MASK_LEVELS - 1) for level in range(_MASK_LEVELS))
    data = io.BytesIO()
    picture.save(data, "PNG", bits=4, transparency=opacity, optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _curves(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One plot per known scalar of the history."""
    curves = []
    for field, label in _CURVES.items():
        lines: dict[str, list[tuple[int, float]]] = {}
        for split in _SPLIT_COLORS:
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
            curves.append(
                {
                    "label": label,
                    "splits": list(lines),
                    "description": f"{label}: {description}.",
                    "svg": _svg(lines),
                }
            )
    return curves


def _svg(lines: Mapping[str, Sequence[tuple[int, float]]]) -> markupsafe.Markup:
    """A line plot as inline SVG in the page's own font and colors."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "mgmtn",  # the same page from the same figures
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.15,
        **dict.fromkeys(
            ("text.color", "axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), "#010201"
        ),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4, 2.2), layout="constrained")
        axes = figure.add_subplot()
        for split, points in lines.items():
            axes.plot(
                *zip(*points, strict=True),
                color=_SPLIT_COLORS[split],
                linewidth=1.6,
                marker="o" if len(points) <= 20 else None,
                markersize=3,
            )
        axes.margins(x=0.02)
        axes.locator_params(nbins=5)
        text = io.StringIO()
        figure.savefig(
            text,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # HTML needs no namespaces, and ids must be unique on the page: keep those that are referred to.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| version="[^"]*"', "", svg).replace("xlink:href", "href")
    referred = set(re.findall(r"#([\w-]+)[\")]", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in referred else "", svg)
    for drawn, shown in _PAGE_COLORS.items():
        svg = svg.replace(drawn, shown)
    return markupsafe.Markup(svg.replace("<svg", '<svg aria-hidden="true"', 1))
