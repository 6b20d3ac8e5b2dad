"""Scores of any number of evaluations as CSV and as Markdown."""

from __future__ import annotations

import csv
import io

from posttrain.evaluation.export import build_markdown_table
from posttrain.reports import formatting
from posttrain.reports.compare_many import ManyComparison, TaskTable
from posttrain.reports.compare_page import letter_of

COLUMNS = (
    "task", "evaluation", "metric", "value", "low", "high", "correct", "samples", "problems",
    "best", "minus_first", "minus_first_low", "minus_first_high", "only_this_better",
    "only_first_better", "p", "p_holm",
)  # fmt: skip
"""``low`` and ``high`` bound 95 % intervals; ``best`` is 1 where paired tests show it."""


def build_score_csv(comparison: ManyComparison) -> str:
    """Build a table with a row for every task and evaluation.

    Args:
        comparison: From ``compare_many``.

    Returns:
        CSV text with a header; numbers in full, shares as shares of 1.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for task in comparison.tasks:
        for place, name in enumerate(comparison.names):
            writer.writerow({"task": task.label, "evaluation": name, **_describe(task, place)})
    return out.getvalue()


def _describe(task: TaskTable, place: int) -> dict[str, object]:
    side = task.sides[place]
    low, high = side.interval or (None, None)
    row: dict[str, object] = {
        "metric": side.metric,
        "value": side.value,
        "low": low,
        "high": high,
        "correct": side.correct,
        "samples": side.samples,
        "problems": side.total,
        "best": int(task.leader == place),
    }
    if place == 0:
        return row
    one = task.contenders[place - 1]
    paired = one.paired.paired
    low, high = paired.interval or (None, None)
    return row | {
        "minus_first": paired.difference,
        "minus_first_low": low,
        "minus_first_high": high,
        "only_this_better": paired.wins,
        "only_first_better": paired.losses,
        "p": paired.p_value,
        "p_holm": one.adjusted_p,
    }


def build_score_markdown(comparison: ManyComparison) -> str:
    """Build a table with a row for every evaluation and a column for every task.

    Args:
        comparison: From ``compare_many``.

    Returns:
        Markdown. Bold is what paired tests show to be better than every other one, p raised for
        the number of all pairs (Holm).
    """
    tasks = comparison.tasks
    header = ["", "evaluation", *(f"{task.label}, {task.base.metric}" for task in tasks)]
    rows = [
        [letter_of(place), name, *(_write_score(task, place) for task in tasks)]
        for place, name in enumerate(comparison.names)
    ]
    lines = build_markdown_table(header, rows)
    on = [f"{task.label} {formatting.format_count(task.total)}" for task in tasks]
    lines += ["", f"In brackets: 95 % intervals. Problems that all have: {', '.join(on)}."]
    lines.append(
        "Bold: better than every other one by paired tests, p raised for the number of all pairs "
        "(Holm), below 0.05."
    )
    if comparison.left_out:
        lines += ["", f"Not in all evaluations, left out: {', '.join(comparison.left_out)}."]
    return "\n".join(lines) + "\n"


def _write_score(task: TaskTable, place: int) -> str:
    side = task.sides[place]
    text = f"{side.shown} ({side.shown_interval})" if side.interval else side.shown
    return f"**{text}**" if task.leader == place else text
