"""What an evaluation leaves behind: one record a problem, and their summary.

``records.jsonl`` holds prompt, completion, parse status, verdict and error class of every problem,
so that it can be graded again without the model; ``results.json`` is derived from it alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import DataError
from posttrain.evaluation.statistics import compare_paired, wilson_interval
from posttrain.files import load_jsonl


@dataclass(frozen=True)
class GradedRecord:
    """One problem with the model's answer and the verdict."""

    id: str
    """``file name:line`` of the problem."""
    prompt: list[dict[str, Any]]
    reference: str
    completion: str
    answer: str | None
    """What was found to be the final answer."""
    parse: str
    """How it was found; see ``grading.answers``."""
    correct: bool
    error: str | None
    """``wrong value``, ``no answer`` or ``unfinished``; None where correct."""
    completion_tokens: int
    finished: bool


def summarize(records: Sequence[GradedRecord], *, seconds: float) -> dict[str, Any]:
    """Count verdicts.

    Args:
        records: At least one.
        seconds: Time that generation took.

    Returns:
        Accuracy with its 95 % Wilson interval, strict accuracy (only marked answers), error
        classes, lengths and speed.
    """
    correct = sum(record.correct for record in records)
    tokens = sum(record.completion_tokens for record in records)
    return {
        "problems": len(records),
        "correct": correct,
        "accuracy": correct / len(records),
        "interval": list(wilson_interval(correct, len(records))),
        "strict_accuracy": sum(r.correct and r.parse == "marker" for r in records) / len(records),
        "errors": dict(Counter(r.error for r in records if r.error).most_common()),
        "unfinished": sum(not record.finished for record in records),
        "mean_completion_tokens": tokens / len(records),
        "seconds": seconds,
        "completion_tokens_per_second": tokens / max(seconds, 1e-9),
    }


def compare_records(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Compare two evaluations problem by problem.

    Args:
        first: Records as JSON objects.
        second: The other evaluation's.

    Returns:
        Difference (first minus second) with its 95 % interval, p value, wins, losses, and how many
        problems each side has alone.

    Raises:
        DataError: They share no problem, or problems of one name differ.
    """
    left = {record["id"]: record for record in first}
    right = {record["id"]: record for record in second}
    shared = [name for name in left if name in right]
    if not shared:
        raise DataError("the two evaluations share no problem", hint="evaluate the same file twice")
    # Two files may have one name; a pair of different problems says nothing.
    if other := [n for n in shared if left[n]["reference"] != right[n]["reference"]]:
        raise DataError(
            f"{other[0]}: the two evaluations have different reference answers for this problem",
            hint="evaluate the same file twice",
        )
    paired = compare_paired(
        [bool(left[n]["correct"]) for n in shared], [bool(right[n]["correct"]) for n in shared]
    )
    return {
        **asdict(paired),
        "interval": list(paired.interval),
        "only_first": len(left) - len(shared),
        "only_second": len(right) - len(shared),
    }


def load_records(folder: Path) -> list[dict[str, Any]]:
    """Read an evaluation's records.

    Raises:
        DataError: There are none.
    """
    path = folder / "records.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="run the evaluation first")
    rows: list[dict[str, Any]] = load_jsonl(path)
    return rows
