"""A run's evaluations as files for a folder of reports that several runs share.

``<run>-<stage>-<task>.md``, ``.csv`` and ``.html`` for each evaluation, and an index of all that
the folder holds: ``index.csv``, from which ``index.md`` and ``index.html`` are made.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from posttrain.errors import DataError
from posttrain.evaluation.export import build_markdown, build_markdown_table, build_table
from posttrain.files import cache_root, digest_json, write_json, write_text
from posttrain.reports import formatting
from posttrain.reports.evaluation import build_evaluation_page
from posttrain.reports.folders import Evaluation, Row, find_evaluations
from posttrain.reports.pages import write_page

INDEX_COLUMNS = (
    "task", "run", "stage", "model", "metric", "value", "low", "high", "correct", "scored",
    "problems", "finished", "report",
)  # fmt: skip
"""Of ``index.csv``; ``low`` and ``high`` bound the 95 % interval, ``report`` names the files."""


def publish_run(run: Path, folder: Path) -> list[Path]:
    """Write the reports of a run's evaluations, and the folder's index anew.

    What the folder holds of other runs stays; reports of the same run, stage and task are replaced.

    Args:
        run: ``runs/<name>``, or any folder as ``find_evaluations`` takes it.
        folder: Such as ``docs/reports``; made where it is absent.

    Returns:
        The pages, one per evaluation.

    Raises:
        DataError: The run has no finished evaluation, or the folder's ``index.csv`` is another one.
        PosttrainError: The folder cannot be written.
    """
    entries, pages = [], []
    for found in _list_evaluations(run):
        name = "-".join(filter(None, (found.run, found.stage, found.task.label)))
        write_text(folder / f"{name}.md", build_markdown(found.task.results))
        write_text(folder / f"{name}.csv", build_table(found.task.load_records()))
        pages.append(build_evaluation_page(found.task.path, folder / f"{name}.html"))
        entries.append(_describe(found, name))
    # Two runs may finish at the same time. The lock is no file for a folder that is shared.
    lock = cache_root() / "locks" / f"{digest_json(str(folder.resolve()))[:32]}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        _write_index(folder, entries)
    return pages


def publish_answers(run: Path, folder: Path) -> list[Path]:
    """Write every problem's answer, a file for each evaluation: ``<task>/<run>-<stage>.json``.

    Args:
        run: ``runs/<name>``, or any folder as ``find_evaluations`` takes it.
        folder: Such as ``outputs/eval``; made where it is absent.

    Returns:
        The files: objects with ``run``, ``stage``, ``results`` and ``problems``, the records.

    Raises:
        DataError: The run has no finished evaluation.
        PosttrainError: The folder cannot be written.
    """
    files = []
    for found in _list_evaluations(run):
        name = "-".join(filter(None, (found.run, found.stage)))
        files.append(folder / found.task.label / f"{name}.json")
        about = {"run": found.run, "stage": found.stage, "results": found.task.results}
        write_json(files[-1], {**about, "problems": found.task.load_records()})
    return files


def _list_evaluations(path: Path) -> list[Evaluation]:
    found = find_evaluations(path)
    if not found:
        raise DataError(
            f"{path}: no finished evaluation in it", hint="finish its evaluate stage first"
        )
    return found


def _describe(found: Evaluation, name: str) -> Row:
    results = found.task.results
    low, high = results.get("interval") or (None, None)
    model = str(results.get("model", ""))
    known = {
        "task": found.task.label,
        "run": found.run,
        "stage": found.stage,
        # Where a run lies is no part of what was measured.
        "model": model.removeprefix(f"{found.root}/"),
        # The earliest results had no other metric and did not say so.
        "metric": results.get("metric", "accuracy"),
        "value": results["value"] if "value" in results else results["accuracy"],
        "low": low,
        "high": high,
        # Several samples of a problem are as many answers.
        "scored": results.get("scored", results.get("problems")),
        "finished": found.finished_at,
        "report": name,
    }
    return {column: known.get(column, results.get(column)) for column in INDEX_COLUMNS}


def _write_index(folder: Path, entries: Sequence[Row]) -> None:
    new = {entry["report"] for entry in entries}
    kept = [row for row in _read_index(folder / "index.csv") if row["report"] not in new]
    rows = [*kept, *({k: "" if v is None else str(v) for k, v in e.items()} for e in entries)]
    rows.sort(key=lambda row: (row["task"], row["run"], row["stage"]))
    out = io.StringIO()
    writer = csv.DictWriter(out, INDEX_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "index.csv", out.getvalue())
    shown = [(row["report"], _show(row)) for row in rows]
    header = ("task", "run", "stage", "model", "score", "95 % interval", "problems", "report")
    linked = [
        (*cells, f"[page](<{name}.html>) [text](<{name}.md>) [answers](<{name}.csv>)")
        for name, cells in shown
    ]
    lines = ["# Evaluations", "", *build_markdown_table(header, linked)]
    write_text(folder / "index.md", "\n".join(lines) + "\n")
    write_page(folder / "index.html", "index.html.jinja", {"header": header, "rows": shown})


def _read_index(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        if all(set(row) == set(INDEX_COLUMNS) and None not in row.values() for row in rows):
            return rows
    except (OSError, ValueError, csv.Error):
        pass
    raise DataError(
        f"{path}: not an index of evaluations, which has the columns {', '.join(INDEX_COLUMNS)}",
        hint="move it away, or give another folder",
    )


def _show(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of an evaluation for people, without its links."""
    metric = row["metric"] or "accuracy"
    value = formatting.format_score(metric, float(row["value"])) if row["value"] else ""
    interval = ""
    if row["low"]:
        bounds = float(row["low"]), float(row["high"])
        interval = formatting.format_score_interval(metric, bounds)
    score = f"{metric.replace('_', ' ')} {value}"
    amount = f"{row['correct']} of {row['scored']}" if row["correct"] else row["problems"]
    return row["task"], row["run"], row["stage"], row["model"], score, interval, amount
