"""Plots as SVG text that lies in the page itself and takes the page's colours, dark mode included.

Text stays text, so the page's fonts show it; no words of a user go into a plot, only numbers and
names of stages and tasks. Equal input gives equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Axes = Any

# Drawn in colours that occur nowhere else, then replaced by the variables of the style sheet.
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_COLOURS = ("#040404", "#050505", "#060606", "#070707")
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _GRID: "--grid",
    **{colour: f"--series-{i}" for i, colour in enumerate(_COLOURS, 1)},
}
_STYLE = {
    "svg.hashsalt": "posttrain",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.8,
    "text.parse_math": False,
}
_MOST_BINS = 40
MOST_POINTS = 500
"""Longest course that is drawn point by point."""


@dataclass(frozen=True)
class Line:
    """One course over the steps."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    sparse: bool = False
    """Few points, each worth a mark."""


@dataclass(frozen=True)
class Bar:
    """An estimate with its interval."""

    label: str
    value: float
    interval: tuple[float, float]
    series: int
    """Colour; one per model."""


def draw_lines(
    title: str,
    lines: Sequence[Line],
    *,
    percent: bool = False,
    from_zero: bool = False,
    axis: str = "step",
) -> Markup:
    """Draw values over steps.

    A course of more than 500 points is drawn as the mean of neighbours inside a band from their
    smallest to their largest, so that a spike stays in sight.

    Args:
        title: What is drawn, with its unit.
        lines: At least one, each with at least one point.
        percent: Whether the values are shares of 1.
        from_zero: Whether the axis starts at 0, for values that have no other meaningful start.
        axis: What is counted from left to right.

    Returns:
        An ``<svg>`` element.
    """

    def paint(axes: Axes) -> None:
        for line, colour in zip(lines, _COLOURS, strict=False):
            _draw_line(axes, line, colour)
        axes.yaxis.set_major_formatter(_as_percent if percent else _as_number)
        if from_zero:
            axes.set_ylim(0, 1.1 * max(max(line.values) for line in lines) or 1)
        if len(lines) > 1:
            axes.legend(loc="best", fontsize=8.5)
        axes.set_xlabel(axis)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.02)

    return _render(paint, title, (4.7, 2.7))


def _draw_line(axes: Axes, line: Line, colour: str) -> None:
    steps, values = np.asarray(line.steps), np.asarray(line.values)
    if len(steps) > MOST_POINTS:
        parts = np.array_split(np.arange(len(steps)), MOST_POINTS)
        low = [values[p].min() for p in parts]
        high = [values[p].max() for p in parts]
        steps = np.array([steps[p].mean() for p in parts])
        axes.fill_between(steps, low, high, color=colour, alpha=0.4, linewidth=0)
        values = np.array([values[p].mean() for p in parts])
    marker = "o" if line.sparse or len(steps) == 1 else None
    axes.plot(steps, values, color=colour, label=line.label, marker=marker, markersize=4)


def draw_bars(title: str, bars: Sequence[Bar], *, wide: bool) -> Markup:
    """Draw shares of 1 as horizontal bars with their 95 % intervals.

    Args:
        title: What is drawn.
        bars: At least one, from top to bottom.
        wide: Whether the plot fills the page or half of it.

    Returns:
        An ``<svg>`` element.
    """

    def paint(axes: Axes) -> None:
        for place, bar in enumerate(bars):
            colour = _COLOURS[bar.series % len(_COLOURS)]
            low, high = bar.interval
            axes.barh(place, bar.value, height=0.62, color=colour, alpha=0.3)
            axes.plot([low, high], [place, place], color=colour, linewidth=2.4)
            axes.plot([bar.value], [place], color=colour, marker="o", markersize=6)
            text = f"{100 * bar.value:.1f} %"
            axes.text(high + 0.015, place, text, va="center", color=_INK, fontsize=9)
        axes.set_yticks(range(len(bars)), [_plain(bar.label) for bar in bars])
        axes.tick_params(axis="y", labelcolor=_INK)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(0, min(1.0, max(bar.interval[1] for bar in bars) * 1.1) + 0.1)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(_as_percent)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)

    return _render(paint, title, (9.2 if wide else 4.7, 0.95 + 0.34 * len(bars)))


@dataclass(frozen=True)
class Layer:
    """One part of a histogram that is made of several."""

    label: str
    values: Sequence[float]
    """One per thing counted."""
    series: int
    """Colour."""


def draw_counts(title: str, layers: Sequence[Layer], *, axis: str, height: str) -> Markup:
    """Draw how several kinds of things are distributed, one upon the other.

    Args:
        title: What is counted.
        layers: From bottom to top, each with at least one whole number; all counted in the same
            bins, which hold as many numbers each.
        axis: What goes from left to right.
        height: What the heights count.

    Returns:
        An ``<svg>`` element.
    """
    whole = np.concatenate([layer.values for layer in layers])
    low, high = whole.min(), whole.max()
    width = np.ceil((high - low + 1) / _MOST_BINS)
    edges = np.arange(low, high + width + 1, width) - 0.5

    def paint(axes: Axes) -> None:
        base = np.zeros(len(edges) - 1)
        for layer in layers:
            top = base + np.histogram(layer.values, edges)[0]
            colour = _COLOURS[layer.series % len(_COLOURS)]
            axes.stairs(
                top, edges, baseline=base, fill=True, color=colour, alpha=0.6, label=layer.label
            )
            base = top
        axes.set_ylim(0, 1.1 * base.max())
        axes.set_xlabel(axis)
        axes.set_ylabel(height)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="best", fontsize=8.5)

    return _render(paint, title, (9.2, 2.9))


def draw_histogram(
    title: str,
    counts: Sequence[float],
    edges: Sequence[float],
    marks: dict[str, float],
    *,
    axis: str = "tokens per example",
    height: str = "examples",
    wide: bool = True,
) -> Markup:
    """Draw a finished histogram with marked places.

    Args:
        title: What is counted.
        counts: Height of each bin.
        edges: Bounds of the bins, one more than counts.
        marks: Name and place of vertical lines.
        axis: What goes from left to right.
        height: What the heights count.
        wide: Whether the plot fills the page or half of it.

    Returns:
        An ``<svg>`` element.
    """

    def paint(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=_COLOURS[0], alpha=0.55)
        top = max([*counts, 1])
        for i, (name, place) in enumerate(marks.items()):
            axes.axvline(place, color=_MUTED, linewidth=1, linestyle=(0, (3, 2)))
            top_of_name = (place, top * (1.14 - 0.1 * (i % 2)))
            axes.annotate(
                name, top_of_name, (4, 0), textcoords="offset points", color=_MUTED, fontsize=8
            )
        axes.set_ylim(0, top * 1.25)
        axes.set_xlabel(axis)
        axes.set_ylabel(height)
        axes.yaxis.get_major_locator().set_params(integer=True)

    return _render(paint, title, (9.2 if wide else 4.7, 2.7))


def _render(paint: Callable[[Axes], None], title: str, inches: tuple[float, float]) -> Markup:
    # "default" first: a matplotlibrc of the user must not change what a report looks like.
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=inches, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        paint(axes)
        axes.set_title(_plain(title))
        buffer = io.StringIO()
        blank = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        # Not savefig, which would lay out and draw everything twice.
        canvas.print_svg(buffer, metadata=blank)
    return _clean(buffer.getvalue(), title)


def _clean(svg: str, title: str) -> Markup:
    """Make a file into an element: no prolog, no ids that the next plot would repeat."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # A style element in an inline image would hold for the whole page.
    svg = re.sub(r"<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    opening = re.search(r'viewBox="([^"]*)"', svg)
    assert opening
    head = f'<svg viewBox="{opening[1]}" role="img" aria-label="{escape(title)}">'
    svg = head + svg[svg.index(">") + 1 :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return Markup(svg.strip())  # noqa: S704 - made here; its only free text is escaped by matplotlib


def _as_percent(value: float, _: int) -> str:
    return f"{100 * value:.3g} %"


def _as_number(value: float, _: int) -> str:
    return f"{value:.4g}".replace("e-0", "e-")


def _plain(text: str) -> str:
    """Keep what the plot's own font can show."""
    return text.encode("ascii", "replace").decode("ascii")
