"""Comparisons of two or more evaluations -> one self-contained HTML file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from posttrain.reports.browser import Browser, build_browser
from posttrain.reports.compare import Comparison
from posttrain.reports.compare_many import ManyComparison, count_shared
from posttrain.reports.folders import TaskFolder
from posttrain.reports.pages import write_page
from posttrain.reports.verdicts import Side


def build_comparison_report(comparison: Comparison, out: Path) -> Path:
    """Write a comparison as one self-contained HTML file.

    Args:
        comparison: From ``compare_runs``.
        out: File to write.

    Returns:
        ``out``.

    Raises:
        PosttrainError: The place cannot be written.
    """
    plots = [
        draw_sides(task.metric, (task.first, task.second), wide=False) for task in comparison.tasks
    ]
    browsers = [
        browse_shared(task.label, task.folders, (comparison.first, comparison.second))
        for task in comparison.tasks
    ]
    values = {
        "comparison": comparison,
        "tasks": list(zip(comparison.tasks, plots, strict=True)),
        "browsers": browsers,
    }
    return write_page(out, "comparison.html.jinja", values, script="browser.js.jinja")


def browse_shared(label: str, folders: Sequence[TaskFolder], names: Sequence[str]) -> Browser:
    """Gather the answers to the problems that several evaluations share.

    Args:
        label: Of the task.
        folders: Of the evaluations.
        names: What to call them.
    """
    rows = [folder.load_records() for folder in folders]
    shared = set.intersection(*({row.get("id") for row in side} for side in rows))
    kept = [[row for row in side if row.get("id") in shared] for side in rows]
    return build_browser(label, dict(zip(names, kept, strict=True)))


def draw_sides(metric: str, sides: Sequence[Side], *, wide: bool) -> Markup | None:
    """Draw accuracies as bars; nothing else has a zero that bars could start from."""
    if metric != "accuracy":
        return None
    # matplotlib takes half a second to load, and the terminal needs none of it.
    from posttrain.reports import figures

    # A, B, ...: the names are the user's, and a plot's font need not have their letters.
    bars = [
        figures.Bar(letter_of(series), side.value, side.interval, series)
        for series, side in enumerate(sides)
        if side.interval
    ]
    return figures.draw_bars("Accuracy with 95 % intervals", bars, wide=wide)


def letter_of(number: int) -> str:
    """Letter of a side on a page: A, B, ... Z, A2, B2, ..."""
    turn, place = divmod(number, 26)
    return f"{chr(ord('A') + place)}{turn + 1 if turn else ''}"


def build_many_report(comparison: ManyComparison, out: Path) -> Path:
    """Write a comparison of several as one self-contained HTML file.

    Args:
        comparison: From ``compare_many``.
        out: File to write.

    Returns:
        ``out``.

    Raises:
        PosttrainError: The place cannot be written.
    """
    letters = [letter_of(number) for number in range(len(comparison.names))]
    plots = [draw_sides(task.metric, task.sides, wide=True) for task in comparison.tasks]
    values = {
        "sides": list(zip(letters, comparison.names, strict=True)),
        "left_out": comparison.left_out,
        "tables": comparison.tasks,
        "browsers": [
            browse_shared(task.label, task.folders, comparison.names) for task in comparison.tasks
        ],
        "tasks": [
            (task, plot, count_shared(task), list(zip(letters[1:], task.contenders, strict=True)))
            for task, plot in zip(comparison.tasks, plots, strict=True)
        ],
    }
    return write_page(out, "comparisons.html.jinja", values, script="browser.js.jinja")
