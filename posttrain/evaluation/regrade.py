"""Saved answers, graded again without a model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.config.evaluation import GRADING, TASK_KINDS, AnswerTask, ChoiceTask
from posttrain.config.load import build_settings
from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.export import write_evaluation
from posttrain.evaluation.grade import SCORES, find_best, open_grader
from posttrain.evaluation.journal import IDENTITY, RECORDS, list_settings
from posttrain.evaluation.results import (
    GradedRecord,
    describe_task,
    load_records,
    summarize_answers,
)
from posttrain.files import load_json, write_errors, write_json
from posttrain.grading.verdicts import Grade, Reference

_FREE_TEXT = ("number", "formula", "exact")
"""Kinds whose answers and references are bare texts."""


@dataclass(frozen=True)
class Change:
    """A verdict that is another one now."""

    id: str
    sample: int
    before: str
    after: str


@dataclass(frozen=True)
class Regraded:
    """What grading a task again has brought."""

    folder: Path
    answers: int
    changes: list[Change]
    kept: Path | None = None
    """The records with the old verdicts, where any has changed."""
    skipped: str = ""
    """Why there is nothing to grade; empty where there is."""


def regrade_task(folder: Path, overrides: Sequence[str]) -> Regraded:
    """Grade the saved answers of a task anew, and write its files again.

    The records with the old verdicts stay beside them, as ``records.jsonl.before``.

    Args:
        folder: Of a finished task.
        overrides: ``key=value`` strings, of the settings in ``GRADING``.

    Raises:
        DataError: The evaluation is not finished, or comes from a version without such records.
        ConfigError: A setting is none of grading.
    """
    if not (folder / "results.json").is_file():
        raise DataError(f"{folder}: has no results.json", hint="run the evaluation to its end")
    results = load_json(folder / "results.json")
    kind = results.get("kind")
    if kind is None and results.get("task") != "harness":
        raise DataError(
            f"{folder}: its results do not say how it was graded", hint="run the evaluation again"
        )
    if kind not in TASK_KINDS or not issubclass(TASK_KINDS[kind], AnswerTask):
        return Regraded(folder, 0, [], skipped=f"{kind or 'harness'}: has no answers to grade")
    task = _settle_task(results, overrides)
    lines = load_records(folder)
    if len(lines) != results.get("problems", len(lines)) * results.get("samples", 1):
        raise DataError(
            f"{folder}: has {len(lines)} answers, and its results are of others: an evaluation "
            "that went on with it was stopped",
            hint="run the evaluation to its end",
        )
    with open_grader(task) as grade:
        records = [grade_again(GradedRecord.from_json(line), task, grade) for line in lines]
    changes = [
        Change(new.id, new.sample, _describe(old), _describe(new.to_json()))
        for old, new in zip(lines, records, strict=True)
        if _describe(old) != _describe(new.to_json())
    ]
    kept = _keep(folder / RECORDS) if changes else None
    about = describe_task(task, str(results.get("model", "")))
    told = {name: about[name] for name in ("kind", "settings")}
    summary = summarize_answers(task, records)
    write_evaluation(folder, {**results, **told, **summary}, records)
    if (folder / IDENTITY).is_file():
        identity = load_json(folder / IDENTITY)
        write_json(folder / IDENTITY, {**identity, "settings": list_settings(task)})
    return Regraded(folder, len(records), changes, kept)


def _settle_task(results: dict[str, Any], overrides: Sequence[str]) -> AnswerTask:
    """The task as it was, with other settings of grading."""
    for text in overrides:
        key = text.partition("=")[0]
        if "=" in text and key not in GRADING:
            raise ConfigError(
                f"command line `{text}`: `{key}` is no setting of grading",
                hint=f"these are: {', '.join(GRADING)}; for others evaluate again",
            )
    kind = was = str(results["kind"])
    for text in overrides:
        kind = text.removeprefix("kind=") if text.startswith("kind=") else kind
    if kind != was and not {kind, was} <= set(_FREE_TEXT):
        raise ConfigError(
            f"command line `kind={kind}`: answers of kind `{was}` cannot be graded so",
            hint=f"{', '.join(_FREE_TEXT)} can be exchanged for each other",
        )
    model = TASK_KINDS[kind]
    assert issubclass(model, AnswerTask)
    kept = {k: v for k, v in results["settings"].items() if k in model.model_fields}
    said = [text for text in overrides if not text.startswith("kind=")]
    values = {**kept, "kind": kind, "task": results["task"], "data": {"path": results["data"]}}
    return build_settings(model, values, said)


def grade_again(record: GradedRecord, task: AnswerTask, grade: Grade | None = None) -> GradedRecord:
    """Judge a kept answer by a task's settings.

    Args:
        record: What was written, or the scores of the options.
        task: How to grade.
        grade: From ``open_grader``; not needed for scored options.
    """
    if record.error == "unanswered":
        return record
    if record.parse == "likelihood":
        assert isinstance(task, ChoiceTask)
        answer = find_best(record.options, SCORES[task.normalize])
        right = answer == record.reference
        text = next(o["text"] for o in record.options if o["letter"] == answer)
        error = None if right else "wrong"
        return replace(
            record, completion=text, answer=answer, correct=right, strict=right, error=error
        )
    letters = "".join(option["letter"] for option in record.options)
    reference = Reference(record.reference, letters, tuple(record.tools), record.expected)
    assert grade is not None
    verdict = grade(reference, record.completion, record.finished)
    return replace(
        record,
        answer=verdict.answer,
        parse=verdict.parse,
        correct=verdict.correct,
        strict=verdict.strict,
        error=verdict.error,
    )


def _describe(line: dict[str, Any]) -> str:
    """A verdict in a word or two."""
    if line["correct"]:
        return "right" if line.get("strict") else "right, not in the form asked for"
    return str(line["error"])


def _keep(path: Path) -> Path:
    """Copy a file beside itself under a name that is free, and return that."""
    before = path.with_name(f"{path.name}.before")
    number = 2
    while before.exists():
        before = path.with_name(f"{path.name}.before-{number}")
        number += 1
    with write_errors(before):
        shutil.copyfile(path, before)
    return before
