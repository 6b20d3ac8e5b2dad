"""What a task's verdicts come to: accuracy, pass@k, majority votes and lengths, with intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from posttrain.evaluation.statistics import estimate_share, majority_at_k, pass_at_k
from posttrain.grading.normalization import normalize_formula
from posttrain.grading.numbers import parse_number


class Judged(Protocol):
    """What is read of a record."""

    @property
    def id(self) -> str:
        """Name of the problem."""

    @property
    def answer(self) -> str | None:
        """What was found to be the answer."""

    @property
    def correct(self) -> bool | None:
        """None where there is no verdict."""

    @property
    def strict(self) -> bool | None:
        """The verdict on answers in the form that was asked for."""

    @property
    def completion_tokens(self) -> int:
        """Length of the answer."""

    @property
    def cluster(self) -> str | None:
        """What several problems share."""


Problems = dict[str, list[Judged]]


def count_verdicts(records: Sequence[Judged]) -> dict[str, Any]:
    """Count right answers.

    Args:
        records: One per sample, at least one.

    Returns:
        Accuracy, each problem counting once by the share of its right samples, with its 95 %
        interval: Wilson's, or by the clustered standard error where there are several samples of a
        problem or several problems of a cluster; both None where nothing has a verdict. What has
        none is counted apart, and is no part of any accuracy.
    """
    scored = _by_problem(r for r in records if r.correct is not None)
    accuracy = _score(scored, lambda samples: _share(r.correct for r in samples))
    clusters = _cluster_of(scored)
    return {
        "problems": len({record.id for record in records}),
        "scored": sum(map(len, scored.values())),
        "unscored": sum(record.correct is None for record in records),
        "correct": sum(bool(record.correct) for record in records),
        "accuracy": accuracy["value"],
        "interval": accuracy["interval"],
        **({"clusters": len(set(clusters))} if clusters else {}),
    }


def score_strict(records: Sequence[Judged]) -> dict[str, Any]:
    """Count right answers that were given in the form asked for; None where none can be told."""
    scored = _by_problem(r for r in records if r.strict is not None)
    found = _score(scored, lambda samples: _share(r.strict for r in samples))
    return {"strict_accuracy": found["value"], "strict_interval": found["interval"]}


def score_samples(records: Sequence[Judged]) -> dict[str, Any]:
    """Estimate pass@k and the accuracy of majority votes from several samples of each problem.

    Args:
        records: One per sample.

    Returns:
        ``pass_at_k`` and ``majority``: for k = 1, 2, 4, ... and all samples, the value with its
        95 % interval and on how many problems: those with at least k verdicts. Nothing where every
        problem has one sample.
    """
    scored = _by_problem(r for r in records if r.correct is not None)
    most = max((len(samples) for samples in scored.values()), default=0)
    if most < 2:
        return {}
    sizes = sorted({2**n for n in range(most.bit_length()) if 2**n < most} | {most})
    votes = {name: vote(samples) for name, samples in scored.items()}

    def passing(k: int) -> dict[str, Any]:
        return _score(
            {name: samples for name, samples in scored.items() if len(samples) >= k},
            lambda samples: pass_at_k(sum(bool(r.correct) for r in samples), len(samples), k),
        )

    def winning(k: int) -> dict[str, Any]:
        return _score(
            {name: samples for name, samples in scored.items() if len(samples) >= k},
            lambda samples: min(1.0, votes[samples[0].id][k - 1]),
        )

    return {
        "pass_at_k": {str(k): passing(k) for k in sizes},
        "majority": {str(k): winning(k) for k in sizes},
    }


def vote(samples: Sequence[Judged]) -> list[float]:
    """Chance that the majority of k samples of a problem is right, for every k.

    Right answers are one answer, for all of them equal the reference. Wrong ones are told apart by
    the form into which the grader brings them before it compares.
    """
    wrong = Counter(
        normal_form(record.answer)
        for record in samples
        if not record.correct and record.answer is not None
    )
    right = sum(bool(record.correct) for record in samples)
    return majority_at_k(right, list(wrong.values()), len(samples) - right - wrong.total())


def normal_form(answer: str) -> str:
    """Bring an answer to a form that is the same for most ways of writing it: 3.0 is 3."""
    normal = normalize_formula(answer)
    number = parse_number(normal)
    return normal.casefold() if number is None else str(number.normalize())


def measure_lengths(records: Sequence[Judged]) -> dict[str, float | None]:
    """Average the lengths of answers in tokens: of all, of right ones, and of wrong ones.

    What was never written, or by an endpoint that does not count, has no length.
    """
    written = [record for record in records if record.completion_tokens]
    kinds = {
        "mean_completion_tokens": [r.completion_tokens for r in written],
        "mean_completion_tokens_right": [r.completion_tokens for r in written if r.correct],
        "mean_completion_tokens_wrong": [
            r.completion_tokens for r in written if r.correct is False
        ],
    }
    return {name: sum(found) / len(found) if found else None for name, found in kinds.items()}


def _by_problem(records: Iterable[Judged]) -> Problems:
    problems: Problems = {}
    for record in records:
        problems.setdefault(record.id, []).append(record)
    return problems


def _share(marks: Iterable[bool | None]) -> float:
    known = [bool(mark) for mark in marks]
    return math.fsum(known) / len(known)


def _score(problems: Problems, value_of: Callable[[list[Judged]], float]) -> dict[str, Any]:
    """Take the mean over problems with its interval; None where there are none."""
    if not problems:
        return {"value": None, "interval": None, "problems": 0}
    found = estimate_share(
        [value_of(samples) for samples in problems.values()],
        clusters=_cluster_of(problems),
        samples=sum(map(len, problems.values())),
    )
    assert found.interval is not None
    return {"value": found.value, "interval": list(found.interval), "problems": len(problems)}


def _cluster_of(problems: Problems) -> list[str] | None:
    """Name the cluster of each problem, its own name where it has none; None without clusters."""
    clusters = [samples[0].cluster or f"problem {name}" for name, samples in problems.items()]
    return clusters if len(set(clusters)) < len(clusters) else None
