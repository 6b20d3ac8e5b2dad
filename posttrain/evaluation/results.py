"""What an evaluation leaves behind: one record a problem, and their summary.

``records.jsonl`` holds prompt, completion, parse status, verdict and error class of every problem,
so that it can be graded again without the model; ``results.json`` is derived from it alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from posttrain.config.evaluation import BaseTask
from posttrain.errors import DataError
from posttrain.evaluation.grade import find_best
from posttrain.evaluation.scores import (
    count_verdicts,
    measure_lengths,
    score_samples,
    score_strict,
)
from posttrain.evaluation.statistics import estimate_ratio
from posttrain.files import load_jsonl


@dataclass(frozen=True)
class GradedRecord:
    """One answer of the model to a problem, and the verdict."""

    id: str
    """``file name:line`` of the problem."""
    prompt: list[dict[str, Any]]
    reference: str
    completion: str
    answer: str | None
    """What was found to be the final answer."""
    parse: str
    """How it was found; see ``grading.verdicts``, and ``likelihood`` for scored options."""
    correct: bool | None
    """None where the answer could not be had or graded: it is unscored, not wrong."""
    error: str | None
    """``wrong``, ``no_answer``, ``truncated``, or one of ``grading.tool_calls``; of unscored ones
    ``unanswered``, ``grader_timeout``, ``grader_error``; None where correct."""
    completion_tokens: int
    finished: bool
    sample: int = 0
    """Number of the answer to this problem, from 0."""
    strict: bool | None = None
    """The verdict, where only answers in exactly the form that is asked for can be right."""
    prompt_tokens: int = 0
    seconds: float | None = None
    """Until this answer was written, beside others in its batch."""
    cluster: str | None = None
    """What several problems share, such as a text that they ask about."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """What sub-scores are made by, such as ``level``."""
    expected: Any = None
    """What else grading needs."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None
    """Why there is no text, where there is none."""
    options: list[dict[str, Any]] = field(default_factory=list)
    """Letter and text of each option, with its scores where it was scored."""

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from all others of an evaluation."""
        return self.id, self.sample

    @staticmethod
    def from_json(line: Mapping[str, Any]) -> GradedRecord:
        """Read a line of ``records.jsonl``.

        Raises:
            DataError: It has other fields.
        """
        try:
            return GradedRecord(**line)
        except TypeError as error:
            found = str(error).partition("() ")[2]
            raise DataError(
                f"records.jsonl: a line is no record of an answer: {found}",
                hint="run the evaluation again",
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return the line of ``records.jsonl``; what this kind of task lacks is left out."""
        line = {f.name: getattr(self, f.name) for f in fields(self)}
        line["groups"] = dict(self.groups)
        extra = ("groups", "expected", "tools", "failure", "options")
        absent = [name for name in extra if not line[name]]
        return {name: value for name, value in line.items() if name not in absent}


@dataclass(frozen=True)
class DocumentRecord:
    """One document and how well the model foretells it."""

    id: str
    digest: str
    """sha256 of the text."""
    excerpt: str
    """Its beginning."""
    tokens: int
    """Scored tokens."""
    bytes: int
    """UTF-8 length of what the scored tokens stand for."""
    nats: float
    """Minus the log-likelihood."""
    nats_per_token: float
    perplexity: float
    bits_per_byte: float

    def to_json(self) -> dict[str, Any]:
        """Return the line of ``records.jsonl``."""
        return asdict(self)


class Grouped(Protocol):
    """What is read of a problem."""

    @property
    def groups(self) -> Mapping[str, str]:
        """Name -> value."""

    @property
    def cluster(self) -> str | None:
        """What several problems share."""


def regroup(record: GradedRecord, problem: Grouped) -> GradedRecord:
    """Give a record the groups and the cluster of its problem."""
    return replace(record, groups=problem.groups, cluster=problem.cluster)


def describe_task(task: BaseTask, model_name: str) -> dict[str, Any]:
    """Say what was measured, and how: the part of ``results.json`` that no record changes."""
    return {
        "task": task.task or task.label,
        "kind": str(getattr(task, "kind", "")),
        "name": task.label,
        "model": model_name,
        "data": str(task.data.path),
        "settings": task.model_dump(mode="json", exclude={"kind", "task", "name", "data"}),
    }


def summarize_answers(task: BaseTask, records: Sequence[GradedRecord]) -> dict[str, Any]:
    """Count verdicts of a task whose answers are right or wrong, written or chosen by score."""
    return summarize_choices(records) if task.needs == "score" else summarize(records)


def summarize(records: Sequence[GradedRecord]) -> dict[str, Any]:
    """Count verdicts of written answers.

    Args:
        records: At least one.

    Returns:
        Accuracy with its 95 % interval, strict accuracy (only answers in the form asked for),
        error classes, sub-scores and lengths; of several samples of a problem also pass@k and
        majority votes.
    """
    return {
        **summarize_verdicts(records),
        **score_strict(records),
        **score_samples(records),
        "truncated": sum(not r.finished for r in records if r.error != "unanswered"),
        **measure_lengths(records),
    }


def summarize_verdicts(records: Sequence[GradedRecord]) -> dict[str, Any]:
    """Count right answers, over all and by group, and classes of mistakes.

    What is unscored is counted apart, and is no part of any accuracy.
    """
    whole = count_verdicts(records)
    failures = dict(Counter(r.failure for r in records if r.failure).most_common())
    groups: dict[str, dict[str, list[GradedRecord]]] = {}
    for record in records:
        for name, value in record.groups.items():
            groups.setdefault(name, {}).setdefault(value, []).append(record)
    scores = {
        name: {value: count_verdicts(members) for value, members in sorted(found.items())}
        for name, found in groups.items()
        if len(found) > 1
    }
    return {
        "metric": "accuracy",
        "value": whole["accuracy"],
        "higher_is_better": True,
        **whole,
        "samples": max(record.sample for record in records) + 1,
        "errors": dict(Counter(r.error for r in records if r.error).most_common()),
        **({"failures": failures} if failures else {}),
        **({"groups": scores} if scores else {}),
    }


def summarize_choices(records: Sequence[GradedRecord]) -> dict[str, Any]:
    """Count verdicts of options that were scored, by either score, whichever decides."""
    by = {"sum": "logprob", "bytes": "logprob_per_byte"}
    return {
        **summarize_verdicts(records),
        "accuracy_by": {
            name: sum(find_best(r.options, key) == r.reference for r in records) / len(records)
            for name, key in by.items()
        },
    }


def summarize_documents(records: Sequence[DocumentRecord]) -> dict[str, Any]:
    """Pool documents: every token counts the same, whatever document it stands in.

    Args:
        records: At least one.

    Returns:
        Perplexity per token with its 95 % interval over documents (none for a single document),
        nats per token, bits per byte, and amounts.
    """
    tokens = sum(record.tokens for record in records)
    nats = sum(record.nats for record in records)
    size = sum(record.bytes for record in records)
    found = estimate_ratio([r.nats for r in records], [r.tokens for r in records])
    interval = found.interval and [_perplexity(bound) for bound in found.interval]
    return {
        "metric": "perplexity",
        "value": _perplexity(nats / tokens),
        "interval": interval,
        "higher_is_better": False,
        "perplexity": _perplexity(nats / tokens),
        "nats_per_token": nats / tokens,
        "bits_per_byte": nats / math.log(2) / size,
        "problems": len(records),
        "documents": len(records),
        "tokens": tokens,
        "bytes": size,
    }


def _perplexity(nats: float) -> float:
    """Perplexity of so many nats per token; beyond the range of floats, the largest one."""
    return math.exp(min(nats, 709.0))


def load_records(folder: Path) -> list[dict[str, Any]]:
    """Read an evaluation's records.

    Raises:
        DataError: There are none.
    """
    path = folder / "records.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="run the evaluation first")
    try:
        rows: list[dict[str, Any]] = load_jsonl(path)
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}", hint="run the evaluation again") from None
    return rows
