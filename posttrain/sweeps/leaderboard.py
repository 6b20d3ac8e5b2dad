"""The trials of a sweep in order of merit: table, Markdown, CSV, a page, and the best recipe."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from posttrain.config.load import load_recipe
from posttrain.config.recipe import Recipe
from posttrain.config.sweep import SweepConfig
from posttrain.files import write_text
from posttrain.logs import format_duration
from posttrain.reports.figures import Line, draw_lines
from posttrain.reports.formatting import format_number, to_one_line
from posttrain.reports.pages import write_page
from posttrain.reports.terminal import build_table, to_text
from posttrain.sweeps.search import Settings


@dataclass(frozen=True)
class TrialRow:
    """One trial, as far as it has come."""

    number: int
    state: str
    """``complete``, ``failed`` or ``running``."""
    value: float | None
    """Of the sweep's metric."""
    settings: Settings
    seconds: float | None = None
    error: str = ""
    """Why it failed, one line."""

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"trial-{self.number:04d}"


def rank_trials(rows: Sequence[TrialRow], config: SweepConfig) -> list[TrialRow]:
    """Put the best trial first, the older one where two are equal, and those without value last."""
    sign = 1 if config.better == "minimize" else -1
    return sorted(rows, key=lambda r: (r.value is None, sign * (r.value or 0.0), r.number))


def write_leaderboard(folder: Path, rows: Sequence[TrialRow], config: SweepConfig) -> str:
    """Write ``leaderboard.md``, ``leaderboard.csv`` and ``report.html``.

    Args:
        folder: The sweep's folder.
        rows: All trials.
        config: The sweep.

    Returns:
        The table for the terminal.
    """
    ranked = rank_trials(rows, config)
    headers = ["trial", config.metric, *config.search, "time", "note"]
    cells = [_list_cells(row, config) for row in ranked]
    lines = [f"# {folder.name}", "", _summarize(rows, config), ""]
    for line in (headers, ["---"] * len(headers), *cells):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |")
    write_text(folder / "leaderboard.md", "\n".join(lines) + "\n")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "state", config.metric, *config.search, "seconds", "error"])
    for row in ranked:
        values = [row.settings.get(key, "") for key in config.search]
        writer.writerow([row.name, row.state, row.value, *values, row.seconds, row.error])
    write_text(folder / "leaderboard.csv", buffer.getvalue())
    page: dict[str, Any] = {
        "name": folder.name,
        "summary": _summarize(rows, config),
        "plot": _draw(rows, config),
        "headers": headers,
        "rows": list(zip(ranked, cells, strict=True)),
    }
    write_page(folder / "report.html", "sweep.html.jinja", page)
    table = build_table(*headers)
    for line in cells:
        table.add_row(*line)
    return to_text(table)


def _list_cells(row: TrialRow, config: SweepConfig) -> list[str]:
    value = "" if row.value is None else format_number(row.value)
    settings = [_shorten(row.settings.get(key, "")) for key in config.search]
    seconds = "" if row.seconds is None else format_duration(row.seconds)
    note = "" if row.state == "complete" else f"{row.state}: {row.error}".removesuffix(": ")
    return [row.name, value, *settings, seconds, to_one_line(note, 200)]


def _shorten(value: str) -> str:
    """Show four digits of a fraction; the files for programs have them all."""
    try:
        return value if value.isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def _summarize(rows: Sequence[TrialRow], config: SweepConfig) -> str:
    done, failed = (sum(row.state == state for row in rows) for state in ("complete", "failed"))
    return (
        f"{config.better} {config.metric}: {done} trials complete, {failed} failed "
        f"({config.sampler}, seed {config.seed})"
    )


def _draw(rows: Sequence[TrialRow], config: SweepConfig) -> Any:
    pairs = [(row.number, row.value) for row in rows if row.value is not None]
    if not pairs:
        return None
    numbers, values = [n for n, _ in pairs], [v for _, v in pairs]
    best = list(accumulate(values, min if config.better == "minimize" else max))
    lines = [Line("trial", numbers, values, sparse=True), Line("best so far", numbers, best)]
    return draw_lines(config.metric, lines, axis="trial")


def write_best_recipe(
    path: Path, best: TrialRow, found: Recipe, recipe_file: Path, metric: str
) -> None:
    """Write the best trial's recipe: the swept one by ``base:``, with what differs from it.

    Args:
        path: File to write.
        best: The trial.
        found: Its recipe.
        recipe_file: The swept recipe.
        metric: The sweep's.
    """
    below = load_recipe(recipe_file).model_dump(mode="json")
    settings = found.model_dump(mode="json", exclude_unset=True)
    # An include is merged key by key, but a list such as `stages` is replaced as a whole.
    changed = {k: v for k, v in settings.items() if found.model_dump(mode="json")[k] != below[k]}
    values = {
        "base": os.path.relpath(recipe_file.resolve(), path.parent.resolve()),
        **changed,
        "name": f"{path.parent.name}-best"[:64],
    }
    head = [f"# {best.name} of the sweep: {metric} = {best.value:.6g}"]
    head += [f"#   {key}={value}" for key, value in best.settings.items()]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    write_text(path, "\n".join(head) + "\n" + text)
