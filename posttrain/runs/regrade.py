"""The command `regrade`: all tasks of a run, a stage, or one task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.errors import DataError
from posttrain.evaluation.comparisons import compare_records
from posttrain.evaluation.export import write_results
from posttrain.evaluation.journal import RECORDS
from posttrain.evaluation.regrade import Regraded, regrade_task
from posttrain.evaluation.results import load_records
from posttrain.files import list_current, load_json
from posttrain.logs import say, show
from posttrain.reports.evaluation import build_evaluation_page

_SHOWN = 5
"""Changed verdicts that are named."""


def regrade(folder: Path, overrides: Sequence[str]) -> None:
    """Grade saved answers anew, and say which verdicts have changed.

    Args:
        folder: A run, a stage or a task.
        overrides: As for ``regrade_task``.

    Raises:
        DataError: There are no saved answers.
        ConfigError: A setting is none of grading.
    """
    from posttrain.runs.finish import write_report

    tasks = find_task_folders(folder)
    for task in tasks:
        show(describe(regrade_task(task, overrides)))
    for task in tasks:
        _compare_again(task)
    for run in (folder, *list(folder.absolute().parents)[:2]):
        if (run / "config.json").is_file() and "stages" in load_json(run / "config.json"):
            write_report(run)
            return
    for task in tasks:
        say(f"report: {build_evaluation_page(task)}")


def find_task_folders(folder: Path) -> list[Path]:
    """Find the folders with saved answers: the folder itself, or below it; no older copies.

    Raises:
        DataError: There are none.
    """
    for pattern in (RECORDS, f"*/{RECORDS}", f"*/*/{RECORDS}"):
        found = [path.parent for path in list_current(folder, pattern)]
        if found:
            return found
    raise DataError(f"{folder}: no saved answers in it", hint="give a run, a stage or a task")


def describe(found: Regraded) -> str:
    """Say how many verdicts have changed, and which: the first few."""
    name = "/".join(found.folder.absolute().parts[-2:])
    if found.skipped:
        return f"{name}: {found.skipped}"
    lines = [f"{name}: {len(found.changes)} of {found.answers} verdicts changed"]
    for change in found.changes[:_SHOWN]:
        sample = f" sample {change.sample}" if change.sample else ""
        lines.append(f"  {change.id}{sample}: {change.before} -> {change.after}")
    if len(found.changes) > _SHOWN:
        lines.append(f"  and {len(found.changes) - _SHOWN} more")
    if found.kept:
        lines.append(f"  the old verdicts: {found.kept}")
    return "\n".join(lines)


def _compare_again(task: Path) -> None:
    """Renew the comparison with another stage, where the results have one."""
    results = load_json(task / "results.json")
    comparison = results.get("comparison")
    if not comparison:
        return
    other = task.absolute().parent.parent / comparison["other"] / task.name
    if not (other / RECORDS).is_file():
        say(f"{task}: {other} is gone; the comparison with it is left as it was")
        return
    renewed = compare_records(load_records(task), load_records(other))
    results["comparison"] = {"other": comparison["other"], **renewed}
    write_results(task, results)
