"""
Curves as SVG, for a light page and a dark one: lines have colours of their own, all else that of the
text around them.

    svg = line_chart({"train/loss": [(1, 10.8), (2, 9.9)]}, "step", "loss per token", marks={40: "1"})

Of a long curve the mean of each stretch is drawn, with a shadow from its least to its largest value.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Sequence[tuple[float, float]]

INK = "#010203"  # a colour that nothing else has: becomes that of the text
COLOURS = ("#3b82f6", "#d97706", "#10b981", "#a855f7", "#ef4444")
INCHES = (5.4, 3.0)  # small, so that its letters can be read on a phone
MOST_POINTS, STRETCHES, DOTTED_UP_TO = 1000, 400, 50
STEADY: Any = {
    "svg.fonttype": "none",  # the reader's fonts are good enough
    "svg.hashsalt": "instruct-cluster",  # ids are random unless told
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK,
    "ytick.color": INK, "grid.color": INK, "font.size": 10.0,
}  # fmt: skip


def line_chart(
    curves: Mapping[str, Curve],
    x_label: str,
    y_label: str,
    marks: Mapping[int, str] | None = None,
    ends: Sequence[tuple[float, float]] = (),
) -> str:
    """
    Return curves as an SVG element.

    Args:
        curves: Points by name; a name that begins with "_" is not in the legend.
        x_label: Below the chart.
        y_label: Beside it.
        marks: What stands above a vertical line, by its x.
        ends: Points to mark with a cross.
    """
    # Where nobody has a home that can be written, it tells of a folder for its fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STEADY):
        figure = Figure(figsize=INCHES, layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.subplots()
        axes.patch.set_alpha(0.0)
        for number, (name, points) in enumerate(curves.items()):
            _draw(axes, name, points, COLOURS[number % len(COLOURS)])
        for x, words in (marks or {}).items():
            axes.axvline(x, color=INK, linestyle=":", linewidth=1)
            axes.annotate(
                words, (x, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom"
            )
        if ends:
            axes.plot(*zip(*ends, strict=True), "x", color=COLOURS[-1])
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(alpha=0.2)
        if any(not name.startswith("_") for name in curves):
            axes.legend(framealpha=0.0)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r'<g id="[a-z_0-9.]+">', "<g>", svg)  # the same ids in every chart of a page


def _draw(axes: Axes, name: str, points: Curve, colour: str) -> None:
    x, y = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
    marker = "o" if len(x) < DOTTED_UP_TO else ""
    if len(x) > MOST_POINTS:
        starts = np.linspace(0, len(x), STRETCHES, endpoint=False).astype(np.int64)
        counts = np.diff([*starts, len(x)])
        x, mean = np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts
        low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
        axes.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
        y = mean
    axes.plot(x, y, label=name, color=colour, marker=marker, markersize=3)
