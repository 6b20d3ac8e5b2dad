"""Two models on the same problems: differences with intervals and tests; several comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from posttrain.evaluation.statistics.distributions import binomial_chance
from posttrain.evaluation.statistics.intervals import (
    LEVEL,
    bootstrap_interval,
    estimate_ratio,
    sum_clusters,
    wilson_interval,
)
from posttrain.evaluation.statistics.power import (
    detectable_by_error,
    detectable_difference,
    problems_needed,
)

_MOST_ENUMERATED = 12
_FLIPS = 19_999
_MOST_CELLS = 4_000_000


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same problems."""

    total: int
    wins: int
    """Problems only the first one has right, or has better."""
    losses: int
    """Problems only the second one has right, or has better."""
    difference: float
    """Accuracy, score or bits per byte of the first minus that of the second."""
    interval: tuple[float, float] | None
    """Of the difference; None where one text alone is compared."""
    p_value: float | None
    """Two-sided: chance of so large a difference if both were as good; None for a single text."""
    test: Literal["mcnemar", "sign_flips", "t"]
    """``mcnemar``: exact, of one answer each, with Newcombe's interval; ``sign_flips``: of mean
    scores or clusters, with the bootstrap's; ``t``: of texts, with the t interval."""
    bootstrap_interval: tuple[float, float] | None
    """Of the difference, problems (or clusters of them) drawn anew; None for texts."""
    level: float
    """Of the intervals, and 1 minus the chance of error that ``detectable`` allows for."""
    detectable: float | None
    """The least difference that is found 4 times in 5; None where the set is too small for any."""
    needed: int | None
    """Problems of this kind that would find the observed difference 4 times in 5; None where there
    is no difference, or no number would do."""
    clusters: int | None = None
    """Clusters that the problems are in; None where each stands alone."""


def compare_paired(
    first: Sequence[bool], second: Sequence[bool], level: float = LEVEL
) -> PairedComparison:
    """Compare two models' right answers problem by problem, one answer each.

    Args:
        first: Whether the first model is right, one per problem.
        second: The same of the second, in the same order.
        level: Of the interval.

    Returns:
        The comparison.

    Raises:
        ValueError: Lengths differ or are 0.

    """
    if len(first) != len(second) or not len(first):
        raise ValueError("paired comparison needs the same problems on both sides")
    total = len(first)
    wins = sum(bool(a and not b) for a, b in zip(first, second, strict=True))
    losses = sum(bool(b and not a) for a, b in zip(first, second, strict=True))
    both = sum(bool(a and b) for a, b in zip(first, second, strict=True))
    difference, discordance = (wins - losses) / total, (wins + losses) / total
    marks = [1] * wins + [-1] * losses + [0] * (total - wins - losses)
    return PairedComparison(
        total=total,
        wins=wins,
        losses=losses,
        difference=difference,
        interval=newcombe_interval(both, wins, losses, total, level),
        p_value=mcnemar_exact(wins, losses),
        test="mcnemar",
        bootstrap_interval=bootstrap_interval(marks, [1] * total, level),
        level=level,
        detectable=detectable_difference(total, discordance, level),
        needed=problems_needed(difference, discordance, level),
    )


def newcombe_interval(
    both: int, wins: int, losses: int, total: int, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of the difference of two shares of the same problems.

    Args:
        both: Problems that both have right.
        wins: That only the first one has right.
        losses: That only the second one has right.
        total: All problems.
        level: Of the interval.

    Source:
        Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10.
    """
    neither = total - both - wins - losses
    p1, p2 = (both + wins) / total, (both + losses) / total
    l1, u1 = wilson_interval(both + wins, total, level)
    l2, u2 = wilson_interval(both + losses, total, level)
    margins = (both + wins) * (losses + neither) * (both + losses) * (wins + neither)
    covariance = both * neither - wins * losses
    # Continuity correction, never past 0.
    corrected = max(covariance - total / 2, 0.0) if covariance > 0 else float(covariance)
    phi = corrected / math.sqrt(margins) if margins else 0.0
    down, up = p1 - l1, u1 - p1
    other_down, other_up = p2 - l2, u2 - p2
    low = math.sqrt(max(0.0, down**2 - 2 * phi * down * other_up + other_up**2))
    high = math.sqrt(max(0.0, up**2 - 2 * phi * up * other_down + other_down**2))
    return p1 - p2 - low, p1 - p2 + high


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided p value: chance of so uneven a split of the problems that one side has alone.

    Source:
        McNemar 1947, Psychometrika 12(2), in its exact binomial form.
    """
    uneven = wins + losses
    tail = math.fsum(binomial_chance(k, uneven, 0.5) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail)


def compare_values(
    first: Sequence[float],
    second: Sequence[float],
    *,
    clusters: Sequence[str | None] | None = None,
    level: float = LEVEL,
) -> PairedComparison:
    """Compare two models by a score of each problem, such as the share of its right samples.

    Args:
        first: The first model's scores, one per problem; more is better.
        second: The same of the second, in the same order.
        clusters: As for ``sum_clusters``; a cluster's problems stand together in every number.
        level: Of the interval.

    Returns:
        The comparison, with the bootstrap's interval. Its test asks: if both models were as good,
        each cluster's difference might as well have the other sign. Of right and wrong answers that
        stand alone that is the exact McNemar test.

    Raises:
        ValueError: Lengths differ or are 0.

    """
    if len(first) != len(second) or not len(first):
        raise ValueError("paired comparison needs the same problems on both sides")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    totals, sizes = sum_clusters(differences, clusters)
    found, drawn = estimate_ratio(totals, sizes, level), bootstrap_interval(totals, sizes, level)
    count = len(totals)
    detectable = None
    # Of few clusters even the extreme assignment of signs is too likely to show anything.
    if 2.0 ** (1 - count) <= 1 - level:
        error = found.standard_error
        by_chance = detectable_difference(count, 0.0, level)
        detectable = detectable_by_error(error, count - 1, level) if error else by_chance
    interval = drawn
    if found.standard_error == 0 and all(0 <= value <= 1 for value in (*first, *second)):
        # Drawing anew from what is all alike shows no spread, and there may be some all the same.
        _, unseen = wilson_interval(0, count, level)
        interval = max(-1.0, found.value - unseen), min(1.0, found.value + unseen)
    needed = None
    if detectable and found.value and found.standard_error:
        needed = math.ceil(len(first) * (detectable / found.value) ** 2)
    return PairedComparison(
        total=len(first),
        wins=sum(difference > 0 for difference in differences),
        losses=sum(difference < 0 for difference in differences),
        difference=found.value,
        interval=interval,
        p_value=flip_signs(totals),
        test="sign_flips",
        bootstrap_interval=drawn,
        level=level,
        detectable=detectable,
        needed=needed,
        clusters=None if count == len(first) else count,
    )


def compare_texts(
    differences: Sequence[float], sizes: Sequence[float], level: float = LEVEL
) -> PairedComparison:
    """Compare two models by how well they foretell texts; less is better.

    Few texts, all long, are the rule: Student's t serves them better than drawing anew.

    Args:
        differences: The first model's bits per byte minus the second's, one per text.
        sizes: Bytes of each text.
        level: Of the interval.

    Returns:
        The comparison; interval and p value are None for a single text.
    """
    totals = [difference * size for difference, size in zip(differences, sizes, strict=True)]
    found, count = estimate_ratio(totals, sizes, level), len(totals)
    error = found.standard_error
    detectable = detectable_by_error(error, count - 1, level) if error else None
    needed = detectable and found.value and math.ceil(count * (detectable / found.value) ** 2)
    return PairedComparison(
        total=count,
        wins=sum(difference < 0 for difference in differences),
        losses=sum(difference > 0 for difference in differences),
        difference=found.value,
        interval=found.interval,
        p_value=found.p_value,
        test="t",
        bootstrap_interval=None,
        level=level,
        detectable=detectable,
        needed=int(needed) if needed else None,
    )


def flip_signs(differences: Sequence[float]) -> float:
    """Chance that the sum is as far from 0 with signs at random: exact for few, else drawn.

    Args:
        differences: One per problem that stands alone, or sums of clusters.

    Source:
        Fisher 1935, The Design of Experiments, section 21; drawn: Phipson and Smyth 2010,
        Statistical Applications in Genetics and Molecular Biology 9(1).
    """
    import numpy as np

    sizes, counts = np.unique(np.abs([d for d in differences if d]), return_counts=True)
    limit = abs(math.fsum(differences)) * (1 - 1e-9)
    if counts.sum() <= _MOST_ENUMERATED:
        every = np.array(list(itertools.product((-1, 1), repeat=int(counts.sum()))))
        return float(np.mean(np.abs(every @ np.repeat(sizes, counts)) >= limit))
    draw = np.random.default_rng(0)
    if len(sizes) <= counts.sum() / 8:  # how many of a kind are flipped is all that matters
        flipped = [draw.binomial(count, 0.5, size=_FLIPS) for count in counts]
        sums = sizes @ (2.0 * np.array(flipped) - counts[:, None])
    else:
        single: np.ndarray = np.repeat(sizes, counts)
        sums = np.empty(_FLIPS)
        rows = max(1, _MOST_CELLS // len(single))
        for start in range(0, _FLIPS, rows):
            drawn = len(sums[start : start + rows])
            bits = np.unpackbits(np.frombuffer(draw.bytes(drawn * len(single) // 8 + 1), np.uint8))
            flips: np.ndarray = bits[: drawn * len(single)].reshape(drawn, -1).astype(float)
            sums[start : start + rows] = 2 * (flips @ single) - single.sum()
    # The observed signs are one of the assignments: without them the test would err too often.
    return float((1 + np.sum(np.abs(sums) >= limit)) / (1 + _FLIPS))


def adjust_p_values(p_values: Sequence[float | None]) -> list[float | None]:
    """Raise p values for the number of comparisons made (Holm).

    Rejecting where the adjusted value is below 0.05 errs anywhere with a chance of at most 5 %.

    Args:
        p_values: One per comparison; None where there is none, which counts as no comparison.

    Returns:
        Adjusted values in the same order, never smaller than before and at most 1.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6(2), 65-70.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p_value, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_value))
        adjusted[index] = highest
    return adjusted


def simultaneous_level(comparisons: int) -> float:
    """Level of each of several intervals that all hold together with a chance of 95 % (Bonferroni).

    Of one test's p value and interval, one at this level that leaves out 0 means a value below 0.05
    after Holm's adjustment; the other way round Holm's finds a little more.
    """
    return 1 - (1 - LEVEL) / max(1, comparisons)
