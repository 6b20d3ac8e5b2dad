"""The data of a training stage: prepared, told, and its accounts put beside the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from posttrain.data.audit import AuditCheck, check_audit, describe_audit
from posttrain.data.prepare import PreparedData, prepare_data
from posttrain.files import publish_folder
from posttrain.logs import say
from posttrain.runtime import is_main_process
from posttrain.training.stage import TrainingJob


def load_data(job: TrainingJob, tokenizer: object) -> PreparedData:
    """Prepare a stage's data or take it from the cache; every process may ask at once.

    Raises:
        DataError: The mask audit found damage.
    """
    data = prepare_data(job.stage.data, tokenizer)
    check_audit([AuditCheck(**check) for check in data.report["audit"]])
    describe_data(data)
    if is_main_process():
        _copy_data_report(data, job.folder / "data")
    return data


def describe_data(data: PreparedData) -> None:
    """Say what became of every row, and what the mask audit found."""
    report = data.report
    for source in report["sources"]:
        say(
            f"data: {source['path']}: {source['rows']:,} rows, {source['format']}"
            f" ({source['evidence']})"
        )
    rejected = sum(report["rejects"].values())
    if report["kind"] == "text":
        say(
            f"data: {report['rows_read']:,} documents read, {report['rows_used']:,} used -> "
            f"{report['examples']['train']:,} train + {report['examples']['validation']:,} "
            f"validation blocks; {report['test_rows']:,} test documents, {rejected:,} not used"
        )
    else:
        _say_rows(report, rejected)
    _say_empty_splits(report)
    for reason, count in report["rejects"].items():
        say(f"data:   {count:,} not used: {reason} (see rejects.jsonl)")
    _say_shares(report)
    _say_contamination(report["contamination"])
    tokens, trained = report["tokens"], report["trained_tokens"]
    share = f", {trained:,} of them trained ({trained / tokens:.0%})" if trained else " of prompts"
    say(f"data: {tokens:,} tokens{share}")
    if joined := report.get("joined_turns"):
        say(f"data:   {joined:,} rows with assistant turns in a row, joined for the template")
    for line in describe_audit(AuditCheck(**check) for check in report["audit"]):
        say(line)


def _say_contamination(found: dict[str, Any] | None) -> None:
    if not found:
        return
    if not found["against"]:
        say(
            f"contamination: nothing was searched: `{found['action']}` is set, and there is no "
            "evaluation set"
        )
        return
    unread = f" ({found['unread_problems']:,} more not read)" if found["unread_problems"] else ""
    say(
        f"contamination: {found['matched_rows']:,} of {found['training_rows']:,} training rows are "
        f"among {found['evaluation_problems']:,} evaluation problems{unread}"
        + (f": {_ACTIONS[found['action']]}" if found["matched_rows"] else "")
    )


def _say_shares(report: dict[str, Any]) -> None:
    """Say what was shortened, and how often each source is seen."""
    overlong = {name: count for name, count in report["overlong"].items() if count}
    parts = overlong.pop("lost parts", 0)
    if overlong:
        shown = ", ".join(f"{count:,} {name}" for name, count in overlong.items())
        say(f"data:   rows too long, and not rejected: {shown}")
    if parts:
        say(f"data:   {parts:,} parts of rows left out: part too long (see rejects.jsonl)")
    for source in report["mixture"] or ():
        say(
            f"mixture: {source['path']}: {source['draws']:,} of {source['examples']:,} examples "
            f"an epoch ({source['passes']:.2f} passes)"
        )


def _say_rows(report: dict[str, Any], rejected: int) -> None:
    used = f"{report['rows_used']:,}"
    say(
        f"data: {report['rows_read']:,} rows read = {used} used + {report['test_rows']:,} test + "
        f"{rejected:,} not used"
    )
    say(
        f"data: {used} rows -> {report['examples']['train']:,} train + "
        f"{report['examples']['validation']:,} validation examples"
    )


def _say_empty_splits(report: dict[str, Any]) -> None:
    """Say which split that was asked for got nothing, and why."""
    split, group = report["split"], report["split"]["group_by"]
    held = {"validation": report["examples"]["validation"], "test": report["test_rows"]}
    empty = [f"{name} ({split[name]:.3g})" for name in held if split[name] and not held[name]]
    if not empty:
        return
    why, what = "there are few rows", "a larger share"
    if group:
        why = f"there are few groups of `{group}`, and each stays whole"
        what = "leave out split.group_by"
    say(
        f"data:   nothing for {' and '.join(empty)} of the split: {why}; "
        f"set another split.seed, or {what}"
    )


_ACTIONS = {"drop": "dropped", "report": "kept, as the recipe says"}


def _copy_data_report(data: PreparedData, folder: Path) -> None:
    with publish_folder(folder) as building:
        for name in ("report.json", "rejects.jsonl", "test.jsonl"):
            shutil.copyfile(data.folder / name, building / name)
