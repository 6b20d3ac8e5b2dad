"""What a judge said about items, and how it is summed up: ratings, noise, intervals.

An item without a score is null and counted as unscored; it never becomes 0.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.evaluation.statistics import estimate_ratio, wilson_interval

_RATINGS = ((0.99, "SUPERIOR"), (0.85, "ACCEPTABLE"), (0.0, "INFERIOR"))


@dataclass(frozen=True)
class Judgement:
    """One answer of the judge about one item, or the reason why there is none."""

    id: str
    repeat: int
    """0 for the first time that the item is judged."""
    digest: str
    """Of the item as it is sent, of the judge's address, and of the repeat."""
    judge_version: str | None = None
    score: float | None = None
    """Overall score, 0 to 1; None where there is no answer."""
    judge_rating: str | None = None
    """The judge's own word for the score."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metric -> score, reasoning, suggested improvements."""
    error: str | None = None
    """Why there is no score."""
    tries: int = 0
    cached: bool = False


def rate(score: float) -> str:
    """The word for a score: SUPERIOR from 0.99, ACCEPTABLE from 0.85, else INFERIOR."""
    return next(word for limit, word in _RATINGS if score >= limit)


def summarize_item(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Sum up what was said about one item.

    Args:
        judgements: Its repeats, at least one.

    Returns:
        Mean score with its 95 % interval over the repeats, rating of the mean, every score, the
        metrics of the first answer; score and rating are None where there is no answer.
    """
    answered = [j for j in judgements if j.score is not None]
    scores = [j.score for j in answered if j.score is not None]
    mean = statistics.fmean(scores) if scores else None
    return {
        "source": "inceptbench",
        "judge_versions": sorted({j.judge_version or "unknown" for j in answered}),
        "score": mean,
        "interval": find_mean_interval(scores),
        "rating": rate(mean) if mean is not None else None,
        "scores": [j.score for j in judgements],
        "metrics": answered[0].metrics if answered else {},
        "errors": [j.error for j in judgements if j.error],
    }


def summarize_judgements(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Sum up what was said about all items.

    Args:
        judgements: Of all items and repeats, at least one.

    Returns:
        Mean score over items with its 95 % interval, counts of ratings, share of ACCEPTABLE or
        better with its interval, mean of each metric, noise of the judge, and how much is
        unscored. Means are None where nothing is scored, and where answers of several judge
        versions would be mixed.
    """
    by_item: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_item[judgement.id].append(judgement)
    items = [summarize_item(group) for group in by_item.values()]
    scores = [item["score"] for item in items if item["score"] is not None]
    versions = Counter(j.judge_version or "unknown" for j in judgements if j.score is not None)
    ratings = Counter(item["rating"] for item in items if item["rating"])
    good = ratings["SUPERIOR"] + ratings["ACCEPTABLE"]
    comparable = bool(scores) and len(versions) == 1
    return {
        "source": "inceptbench",
        "judge_versions": dict(versions),
        "items": len(items),
        "scored": len(scores),
        "unscored": len(items) - len(scores),
        "failed_answers": sum(j.score is None for j in judgements),
        "repeats": max(len(group) for group in by_item.values()),
        "mean_score": statistics.fmean(scores) if comparable else None,
        "interval": find_mean_interval(scores) if comparable else None,
        "judge_noise": _pool_noise([item["scores"] for item in items]),
        "ratings": {word: ratings[word] for _, word in _RATINGS},
        "acceptable_share": good / len(scores) if comparable else None,
        "acceptable_interval": list(wilson_interval(good, len(scores))) if comparable else None,
        "metrics": _average_metrics(judgements) if comparable else {},
    }


def find_mean_interval(scores: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean of independent scores, by Student's t; cut to 0 and 1.

    Returns:
        Lower and upper bound; None for fewer than two scores.
    """
    interval = estimate_ratio(scores, [1.0] * len(scores)).interval if scores else None
    return [max(0.0, interval[0]), min(1.0, interval[1])] if interval else None


def _pool_noise(scores: Sequence[Sequence[float | None]]) -> float | None:
    """Standard deviation of repeated scores of one item, pooled; None without repeats."""
    squares, freedom = 0.0, 0
    for repeated in scores:
        known = [score for score in repeated if score is not None]
        if len(known) > 1:
            squares += statistics.variance(known) * (len(known) - 1)
            freedom += len(known) - 1
    return math.sqrt(squares / freedom) if freedom else None


def _average_metrics(judgements: Sequence[Judgement]) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for judgement in judgements:
        for name, value in judgement.metrics.items():
            score = value.get("score")
            if name != "overall" and isinstance(score, (int, float)):
                found[name].append(float(score))
    return {name: statistics.fmean(values) for name, values in sorted(found.items())}
