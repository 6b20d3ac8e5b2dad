"""Intervals and paired comparisons: of right answers, and of ratios such as nats per token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z95 = 1.959963984540054


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % score interval of a share.

    Args:
        correct: Right answers, 0 to ``total``.
        total: Answers, at least 1.

    Returns:
        Lower and upper bound, within 0 and 1; sensible at 0 and at ``total`` too.

    Raises:
        ValueError: The counts are impossible.

    Source:
        Wilson 1927, JASA 22; Brown, Cai and DasGupta 2001, Statistical Science 16(2).
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is not a share")
    share, z2 = correct / total, _Z95**2
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    spread = share * (1 - share) / total + z2 / (4 * total**2)
    half = _Z95 / (1 + z2 / total) * math.sqrt(spread)
    # At the ends the exact bounds are 0 and 1; rounding would miss them by 1e-17.
    low = 0.0 if correct == 0 else max(0.0, center - half)
    high = 1.0 if correct == total else min(1.0, center + half)
    return low, high


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same problems."""

    total: int
    wins: int
    """Problems only the first one has right, or has better."""
    losses: int
    """Problems only the second one has right, or has better."""
    difference: float
    """Accuracy (or bits per byte) of the first minus that of the second."""
    interval: tuple[float, float] | None
    """95 % interval of the difference; None where one text alone is compared."""
    p_value: float | None
    """Two-sided: chance of so large a difference if both were as good. Right answers: exact McNemar
    test; texts: t test, None for a single one."""


def compare_paired(first: Sequence[bool], second: Sequence[bool]) -> PairedComparison:
    """Compare two models' right answers problem by problem.

    Args:
        first: Whether the first model is right, one per problem.
        second: The same of the second, in the same order.

    Returns:
        The comparison.

    Raises:
        ValueError: Lengths differ or are 0.

    Source:
        Interval: Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10.
        Test: McNemar 1947, exact binomial form.
    """
    if len(first) != len(second) or not first:
        raise ValueError("paired comparison needs the same problems on both sides")
    total = len(first)
    wins = sum(a and not b for a, b in zip(first, second, strict=True))
    losses = sum(b and not a for a, b in zip(first, second, strict=True))
    both = sum(a and b for a, b in zip(first, second, strict=True))
    return PairedComparison(
        total,
        wins,
        losses,
        (wins - losses) / total,
        _newcombe_interval(both, wins, losses, total),
        _mcnemar_exact(wins, losses),
    )


def _newcombe_interval(both: int, wins: int, losses: int, total: int) -> tuple[float, float]:
    neither = total - both - wins - losses
    p1, p2 = (both + wins) / total, (both + losses) / total
    l1, u1 = wilson_interval(both + wins, total)
    l2, u2 = wilson_interval(both + losses, total)
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


def _mcnemar_exact(wins: int, losses: int) -> float:
    uneven = wins + losses
    if uneven == 0:
        return 1.0
    # Through logarithms: the binomial coefficients leave the range of floats above 1,000.
    logs = [
        math.lgamma(uneven + 1) - math.lgamma(k + 1) - math.lgamma(uneven - k + 1)
        for k in range(min(wins, losses) + 1)
    ]
    tail = sum(math.exp(value - uneven * math.log(2)) for value in logs)
    return min(1.0, 2 * tail)


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


@dataclass(frozen=True)
class RatioEstimate:
    """A ratio of two totals over a sample."""

    value: float
    interval: tuple[float, float] | None
    """95 % interval; None for a sample of one."""
    p_value: float | None
    """Two-sided t test against 0; None for a sample of one."""


def estimate_ratio(totals: Sequence[float], sizes: Sequence[float]) -> RatioEstimate:
    """Estimate sum(totals) / sum(sizes), where both vary from item to item.

    Args:
        totals: One per item, such as the nats of a document.
        sizes: One per item, such as its tokens; positive.

    Returns:
        The ratio with the t interval of its linearization.

    Raises:
        ValueError: Lengths differ or are 0, or a size is not positive.

    Source:
        Cochran 1977, Sampling Techniques, 3rd edition, section 6.4.
    """
    if len(totals) != len(sizes) or not totals or min(sizes) <= 0:
        raise ValueError("a ratio needs a total and a positive size per item")
    count, whole = len(totals), math.fsum(sizes)
    ratio = math.fsum(totals) / whole
    if count == 1:
        return RatioEstimate(ratio, None, None)
    squares = math.fsum((y - ratio * x) ** 2 for y, x in zip(totals, sizes, strict=True))
    error = math.sqrt(count / (count - 1) * squares) / whole
    half = student_quantile(count - 1) * error
    if error == 0:
        p_value = 1.0 if ratio == 0 else 0.0
    else:
        p_value = student_p_value(ratio / error, count - 1)
    return RatioEstimate(ratio, (ratio - half, ratio + half), p_value)


def student_p_value(t: float, freedom: int) -> float:
    """Two-sided p value of Student's t.

    Args:
        t: The statistic.
        freedom: Degrees of freedom, at least 1.

    Source:
        Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
    """
    if freedom > 10_000:  # the normal distribution, to four digits
        return math.erfc(abs(t) / math.sqrt(2))
    theta = math.atan(abs(t) / math.sqrt(freedom))
    cosine2 = math.cos(theta) ** 2
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    terms = []
    for k in range(odd + 1, freedom, 2):
        terms.append(term)
        term *= cosine2 * k / (k + 1)
    inside = math.sin(theta) * math.fsum(terms)
    return max(0.0, 1 - (2 / math.pi * (theta + inside) if odd else inside))


def student_quantile(freedom: int) -> float:
    """Value that Student's t exceeds in absolute size with a chance of 5 %."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        above = student_p_value(middle, freedom) > 0.05
        low, high = (middle, high) if above else (low, middle)
    return high
