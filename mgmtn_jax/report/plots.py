"""Plots as inline SVG that inherit the page's font and colors."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import markupsafe
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mgmtn_jax.evaluation.curves import Curve

# Matplotlib does not support CSS variables: it draws in placeholder colors, replaced afterwards.
_INK, _ACCENT = "#010201", "#010205"
SPLIT_COLORS = {"train": "#010203", "validation": "#010204"}
_PAGE_COLORS = {
    _INK: "currentColor",
    SPLIT_COLORS["train"]: "var(--train)",
    SPLIT_COLORS["validation"]: "var(--validation)",
    _ACCENT: "var(--accent)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mgmtn",  # reproducible ids: the same metrics give the same page
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    **dict.fromkeys(
        (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "grid.color",
            "xtick.color",
            "ytick.color",
        ),
        _INK,
    ),
}
# What the constrained layout finds for the small plots, which all have the same tick labels; a page
# has 40 of them, and finding it takes as long as drawing.
_SMALL_MARGINS = {"left": 0.113, "right": 0.973, "bottom": 0.182, "top": 0.954, "wspace": 0.388}
_MAX_POINTS = 60  # per precision-recall curve; a page has 40 of them, each twice


def training(lines: Mapping[str, Sequence[tuple[int, float]]]) -> markupsafe.Markup:
    """Plots a scalar against the training step, one line per split."""

    def draw(axes: Axes) -> None:
        for split, points in lines.items():
            axes.plot(
                *zip(*points, strict=True),
                color=SPLIT_COLORS[split],
                linewidth=1.6,
                marker="o" if len(points) <= 20 else None,
                markersize=3,
            )
        axes.margins(x=0.02)
        axes.locator_params(nbins=5)

    return _svg((4, 2.2), [draw])


def precision_recall(lines: Sequence[tuple[Curve, str]]) -> markupsafe.Markup:
    """Plots precision-recall curves, one line per attribute in the given color."""

    def draw(axes: Axes) -> None:
        _unit_square(axes, "recall", "precision")
        for curve, color in lines:
            axes.plot(*_thinned(curve), color=color, linewidth=1.1, alpha=0.8)

    return _svg((4, 3.1), [draw])


def reliability(curve: Curve) -> markupsafe.Markup:
    """Plots a reliability diagram with the diagonal of perfect calibration."""

    def draw(axes: Axes) -> None:
        _unit_square(axes, "predicted probability", "positive rate")
        _calibration(axes, curve)

    return _svg((4, 3.1), [draw])


def of_attribute(precision_recall: Curve, reliability: Curve) -> markupsafe.Markup:
    """Plots precision-recall curve and reliability diagram of one attribute, side by side."""

    def left(axes: Axes) -> None:
        _unit_square(axes)
        axes.plot(*_thinned(precision_recall), color=_ACCENT, linewidth=1.3)

    def right(axes: Axes) -> None:
        _unit_square(axes)
        _calibration(axes, reliability)

    return _svg((3, 1.45), [left, right], _SMALL_MARGINS)


def _unit_square(axes: Axes, x_label: str = "", y_label: str = "") -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x_label, ylabel=y_label)
    ticks = np.linspace(0, 1, 6 if x_label else 3)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def _calibration(axes: Axes, curve: Curve) -> None:
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, alpha=0.4)
    axes.plot(*curve, color=_ACCENT, linewidth=1.3, marker="o", markersize=2.5)


def _thinned(curve: Curve) -> Curve:
    kept = np.unique(np.linspace(0, len(curve[0]) - 1, _MAX_POINTS).astype(int))
    return (curve[0][kept], curve[1][kept]) if len(curve[0]) > _MAX_POINTS else curve


def _svg(
    inches: tuple[float, float],
    panels: Sequence[Callable[[Axes], None]],
    margins: Mapping[str, float] | None = None,
) -> markupsafe.Markup:
    """Draws panels side by side and returns them as an SVG element.

    Args:
      inches: Width and height.
      panels: Functions that draw a panel each.
      margins: Arguments of `Figure.subplots_adjust`; by default they are made to fit the labels.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=inches, layout="constrained" if margins is None else None)
        if margins is not None:
            figure.subplots_adjust(**margins)
        for number, draw in enumerate(panels):
            draw(figure.add_subplot(1, len(panels), number + 1))
        text = io.StringIO()
        figure.savefig(
            text,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # HTML needs no namespaces. Ids must be unique on the page: keep only those that are referenced.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| version="[^"]*"', "", svg).replace("xlink:href", "href")
    referred = set(re.findall(r"#([\w-]+)[\")]", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in referred else "", svg)
    for drawn, shown in _PAGE_COLORS.items():
        svg = svg.replace(drawn, shown)
    return markupsafe.Markup(svg.replace("<svg", '<svg aria-hidden="true"', 1))
