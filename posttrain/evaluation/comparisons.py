"""Two evaluations of the same problems: paired, with what the set can show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from posttrain.errors import DataError
from posttrain.evaluation.statistics import (
    LEVEL,
    PairedComparison,
    RatioEstimate,
    adjust_p_values,
    compare_paired,
    compare_texts,
    compare_values,
    estimate_ratio,
    estimate_share,
    flip_signs,
    mcnemar_exact,
    sum_clusters,
)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Answered:
    """All samples of one problem, of one model."""

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """The first sample: what is the same in all of them may be read from it."""
        return self.records[0]

    @property
    def key(self) -> str:
        """Where a record has its verdict or score."""
        return "score" if "score" in self.first else "correct"

    @cached_property
    def value(self) -> float | None:
        """Share of the right samples, or mean score; None where none has a verdict."""
        return self.mean(self.key)

    def mean(self, key: str) -> float | None:
        """Mean of a verdict or score over the samples that have one."""
        found = [float(r[key]) for r in self.records if r.get(key) is not None]
        return math.fsum(found) / len(found) if found else None

    def count(self) -> int:
        """Samples with a verdict or score."""
        return sum(record.get(self.key) is not None for record in self.records)


Pair = tuple[Answered, Answered]


@dataclass(frozen=True)
class ScoredPart:
    """Two models on some of the problems."""

    first: RatioEstimate
    second: RatioEstimate
    paired: PairedComparison
    adjusted_p: float | None
    """Raised for the number of values of its group."""


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on the problems that both have scored."""

    metric: str
    """``accuracy``, ``bits_per_byte`` or ``score`` (more is better)."""
    paired: PairedComparison
    unscored: int
    """Shared problems that one side has no verdict of; they are in no number."""
    strict: ScoredPart | None
    """Only answers in the form that was asked for; None where the records do not tell."""
    groups: Mapping[str, Mapping[str, ScoredPart]]
    """By the name and value of a group; those with one value only are left out."""


def group_samples(records: Iterable[Record], place: str = "records.jsonl") -> dict[str, Answered]:
    """Gather each problem's samples, in the order of the problems.

    Args:
        records: As JSON objects.
        place: To be named in an error.

    Raises:
        DataError: A sample is there twice.
    """
    found: dict[str, dict[int, Record]] = {}
    for record in records:
        name, sample = str(record.get("id")), int(record.get("sample") or 0)
        if sample in found.setdefault(name, {}):
            numbered = f", sample {sample}," if "sample" in record else ""
            raise DataError(f"{place}: the id `{name}`{numbered} is there twice")
        found[name][sample] = record
    return {name: Answered(tuple(samples.values())) for name, samples in found.items()}


def compare_records(first: Iterable[Record], second: Iterable[Record]) -> dict[str, Any]:
    """Compare two evaluations problem by problem.

    Args:
        first: Records as JSON objects.
        second: The other evaluation's.

    Returns:
        Metric, difference (first minus second) with its 95 % interval, p value, wins, losses, what
        could be detected, and how many problems each side has alone or has no verdict of. Right
        answers are compared by accuracy, documents by bits per byte, which two tokenizers share.

    Raises:
        DataError: They share no problem, problems of one name differ, or the tasks do.
    """
    left, right = group_samples(first), group_samples(second)
    shared = [name for name in left if name in right]
    if not shared:
        raise DataError("the two evaluations share no problem", hint="evaluate the same file twice")
    found = compare_pairs([(left[name], right[name]) for name in shared])
    return {
        "metric": found.metric,
        **asdict(found.paired),
        "interval": found.paired.interval and list(found.paired.interval),
        "bootstrap_interval": found.paired.bootstrap_interval
        and list(found.paired.bootstrap_interval),
        "only_first": len(left) - len(shared),
        "only_second": len(right) - len(shared),
        "unscored": found.unscored,
    }


def check_same(pairs: Sequence[Pair]) -> None:
    """Stop where one name means two problems, as after a change of the file between two runs.

    Raises:
        DataError: Names the first such problem.
    """
    firsts = [(a.first, b.first) for a, b in pairs]
    if ("nats" in firsts[0][0]) != ("nats" in firsts[0][1]):
        raise DataError(
            "one of the two evaluations measures answers, the other one text",
            hint="compare two evaluations of one kind of task",
        )
    other = [a["id"] for a, b in firsts if _content(a) != _content(b)]
    if other:
        raise DataError(
            f"{other[0]}: the two evaluations have different reference answers or texts for "
            f"{len(other)} of {len(pairs)} problems of one name, this one first",
            hint="evaluate the same file twice",
        )


def _content(record: Record) -> Any:
    return record.get("digest", record.get("reference"))


def compare_pairs(pairs: Sequence[Pair], level: float = LEVEL) -> Comparison:
    """Compare two models on the same problems or texts.

    Args:
        pairs: The two sides of each.
        level: Of the differences' intervals.

    Returns:
        The comparison, over all and by group.

    Raises:
        DataError: One name means two problems, or no problem has a verdict on both sides.
    """
    check_same(pairs)
    if "nats" in pairs[0][0].first:
        return Comparison("bits_per_byte", _compare_documents(pairs, level), 0, None, {})
    scored = [pair for pair in pairs if is_scored(pair)]
    if not scored:
        raise DataError(
            f"{pairs[0][0].first['id']}: no problem has a verdict or score on both sides to pair",
            hint="compare its results by their intervals",
        )
    metric = "score" if "score" in pairs[0][0].first else "accuracy"
    strict = [pair for pair in scored if all(side.mean("strict") is not None for side in pair)]
    return Comparison(
        metric,
        _compare_answers(scored, _value, level),
        len(pairs) - len(scored),
        _describe(strict, lambda side: side.mean("strict") or 0.0, level) if strict else None,
        _compare_groups(scored, level) if metric == "accuracy" else {},
    )


def is_scored(pair: Pair) -> bool:
    """Whether both sides have a verdict or score of the problem, or are texts."""
    return "nats" in pair[0].first or all(side.value is not None for side in pair)


def _value(side: Answered) -> float:
    assert side.value is not None
    return side.value


def _compare_groups(pairs: Sequence[Pair], level: float) -> dict[str, dict[str, ScoredPart]]:
    members: dict[str, dict[str, list[Pair]]] = {}
    for pair in pairs:
        groups = pair[0].first.get("groups") or pair[1].first.get("groups") or {}
        for name, value in groups.items():
            members.setdefault(name, {}).setdefault(str(value), []).append(pair)
    return {
        name: _compare_values_of(parts, level) for name, parts in members.items() if len(parts) > 1
    }


def _compare_values_of(parts: Mapping[str, list[Pair]], level: float) -> dict[str, ScoredPart]:
    """Compare within each value of a group; all of them together hold with the level."""
    each = 1 - (1 - level) / len(parts)
    found = {value: _describe(part, _value, each) for value, part in sorted(parts.items())}
    adjusted = adjust_p_values([part.paired.p_value for part in found.values()])
    return {
        value: replace(part, adjusted_p=p)
        for (value, part), p in zip(found.items(), adjusted, strict=True)
    }


def _describe(
    pairs: Sequence[Pair], value_of: Callable[[Answered], float], level: float
) -> ScoredPart:
    sides = [estimate_side([pair[number] for pair in pairs], value_of) for number in (0, 1)]
    paired = _compare_answers(pairs, value_of, level)
    return ScoredPart(sides[0], sides[1], paired, paired.p_value)


def estimate_side(
    answered: Sequence[Answered], value_of: Callable[[Answered], float] = _value
) -> RatioEstimate:
    """Estimate one model's accuracy or mean score with its 95 % interval.

    Args:
        answered: Problems with a verdict, at least one.
        value_of: What a problem counts.
    """
    values, clusters = [value_of(side) for side in answered], find_clusters(answered)
    if "score" in answered[0].first:
        return estimate_ratio(values, [1.0] * len(values))
    samples = sum(side.count() for side in answered)
    return estimate_share(values, clusters=clusters, samples=samples)


def find_clusters(answered: Sequence[Answered]) -> list[str | None] | None:
    """Name the cluster of each problem; None where no two problems share one."""
    clusters = [side.first.get("cluster") for side in answered]
    named = [cluster for cluster in clusters if cluster is not None]
    return clusters if len(set(named)) < len(named) else None


def _compare_answers(
    pairs: Sequence[Pair], value_of: Callable[[Answered], float], level: float
) -> PairedComparison:
    sides = [[value_of(pair[number]) for pair in pairs] for number in (0, 1)]
    if _are_single(pairs):
        return compare_paired([bool(v) for v in sides[0]], [bool(v) for v in sides[1]], level)
    return compare_values(sides[0], sides[1], clusters=_find_shared(pairs), level=level)


def _find_shared(pairs: Sequence[Pair]) -> list[str | None] | None:
    """Find the clusters of the problems, which one side's records may lack, being older."""
    firsts, seconds = ([pair[number] for pair in pairs] for number in (0, 1))
    return find_clusters(firsts) or find_clusters(seconds)


def _are_single(pairs: Sequence[Pair]) -> bool:
    """Whether each problem stands alone, with one right or wrong answer of each side."""
    return (
        "score" not in pairs[0][0].first
        and all(side.count() == 1 for pair in pairs for side in pair)
        and _find_shared(pairs) is None
    )


def find_better(pairs: Sequence[Pair]) -> tuple[bool, float | None]:
    """Test alone whether one side is better, without intervals: of many pairs of models.

    Args:
        pairs: As for ``compare_pairs``, which gives the same p value.

    Returns:
        Whether the first side is ahead, and the p value of the difference.
    """
    check_same(pairs)
    if "nats" in pairs[0][0].first:
        paired = _compare_documents(pairs, LEVEL)
        return paired.difference < 0, paired.p_value
    scored = [pair for pair in pairs if is_scored(pair)]
    if not scored:
        return False, None
    differences = [_value(first) - _value(second) for first, second in scored]
    totals, _ = sum_clusters(differences, _find_shared(scored))
    ahead = math.fsum(totals) > 0
    if _are_single(scored):
        wins, losses = (sum(sign * d > 0 for d in differences) for sign in (1, -1))
        return ahead, mcnemar_exact(wins, losses)
    return ahead, flip_signs(totals)


def _compare_documents(pairs: Sequence[Pair], level: float) -> PairedComparison:
    """Compare by bits per byte: tokens of two tokenizers cannot be compared; less is better."""
    texts = [(a.first, b.first) for a, b in pairs]
    # What is not scored of a text differs between tokenizers by its first token alone.
    bits = [(a["nats"] / a["bytes"] - b["nats"] / b["bytes"]) / math.log(2) for a, b in texts]
    return compare_texts(bits, [(a["bytes"] + b["bytes"]) / 2 for a, b in texts], level)
