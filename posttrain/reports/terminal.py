"""Tables as plain text: at most 100 columns, no colour codes, the same in a pipe and a log file."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from posttrain.reports import formatting, summary
from posttrain.reports.folders import load_run

_MOST_COLUMNS = 100
_FEWEST_COLUMNS = 40
_MOST_TASKS_ABREAST = 3


def render_run_table(run: Path) -> str:
    """Write the results of a run as a table.

    Args:
        run: ``runs/<name>``, finished or not.

    Returns:
        Lines without a newline at the end; a column per task where there are several, a row each
        where they are many.

    Raises:
        DataError: The folder holds no run, or a file in it is damaged.
    """
    found = load_run(run)
    outcomes = summary.collect_outcomes(found)
    training = summary.list_training_rows(found)
    several = len(outcomes) > 1
    first = _build_score_table(outcomes, found.name)
    second = build_table("", found.name) if several else first
    for row in training:
        second.add_row(row.label, *row.cells)
    tables = [first, second] if several else [first]
    unfinished = [f"{s.name} is {s.state}" for s in found.stages if s.state != "finished"]
    notes = [f"Not finished: {', '.join(unfinished)}"] if unfinished else []
    return to_text(*[table for table in tables if table.row_count], *notes)


def _build_score_table(outcomes: list[summary.TaskOutcome], name: str) -> Table:
    """A column per task; of many tasks a row each, which stays readable."""
    if len(outcomes) <= _MOST_TASKS_ABREAST:
        table = build_table("", *([outcome.label for outcome in outcomes] or [name]))
        for row in summary.list_score_rows(outcomes):
            table.add_row(row.label, *row.cells)
        return table
    table = build_table("", "metric", "before", "after", "paired difference", "p value")
    for outcome in outcomes:
        difference, before = outcome.difference, outcome.before
        p_value = formatting.format_p_value(difference.p_value) if difference else ""
        table.add_row(
            outcome.label,
            outcome.last.metric,
            before.text if before else "",
            outcome.last.text,
            difference.text if difference else "",
            p_value.removeprefix("= "),
        )
    return table


def build_table(*headers: str) -> Table:
    """Make an empty table in the style of all our tables."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def to_text(*parts: RenderableType) -> str:
    """Lay out tables and lines as plain text, never reading markup in them.

    Args:
        parts: From top to bottom.

    Returns:
        Text without colour codes and without a newline at the end.
    """
    columns = shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns
    console = Console(
        file=io.StringIO(),
        width=max(_FEWEST_COLUMNS, min(_MOST_COLUMNS, columns)),
        force_terminal=False,
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))
