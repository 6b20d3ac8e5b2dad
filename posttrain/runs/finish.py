"""The end of a run: report, table, and what to type next."""

from __future__ import annotations

from pathlib import Path

from posttrain.errors import CheckpointError, DataError
from posttrain.files import list_current, load_jsonl
from posttrain.logs import say, show
from posttrain.runs.find import find_latest_model
from posttrain.runtime import command_name


def finish_run(folder: Path) -> None:
    """Write the report and print table and next commands."""
    write_report(folder)
    try:
        trained = find_latest_model(str(folder)) != str(folder)
    except CheckpointError:
        trained = False
    if trained:
        show(f"talk to it:     {command_name()} chat {folder}")
        if question := _find_answered(folder):
            show(f"  such as:      {question}")
    show(
        f"your own data:  {command_name()} prepare YOUR.jsonl model.path=MODEL, "
        "then a recipe: docs/guide.md"
    )


def _find_answered(folder: Path) -> str | None:
    """A question that the newest evaluation has answered rightly, for a first try."""
    records = list_current(folder, "*/*/records.jsonl")
    found = sorted(records, key=lambda path: path.stat().st_mtime)
    for record in load_jsonl(found[-1]) if found else ():
        if record.get("correct") and "\n" not in record["prompt"][-1]["content"]:
            return str(record["prompt"][-1]["content"])
    return None


def write_report(folder: Path) -> None:
    """Write ``report.html`` of a run and of each of its evaluations, and print the table.

    Args:
        folder: A run; of any other folder with evaluations in it, these get their pages.

    Raises:
        DataError: The folder is neither.
    """
    from posttrain.reports.evaluation import build_run_pages
    from posttrain.reports.run import build_run_report
    from posttrain.reports.terminal import render_run_table

    pages = build_run_pages(folder)
    if not (folder / "config.json").is_file():
        if not pages:
            raise DataError(f"{folder}: not a run's folder", hint="give a folder below runs/")
        for page in pages:
            say(f"report: {page}")
        return
    page = build_run_report(folder)
    show(render_run_table(folder))
    say(f"report: {page}")
