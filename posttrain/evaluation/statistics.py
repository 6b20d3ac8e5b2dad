"""Intervals and paired comparisons of shares of right answers. No dependency but math."""

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
    """Problems only the first one has right."""
    losses: int
    """Problems only the second one has right."""
    difference: float
    """Accuracy of the first minus accuracy of the second."""
    interval: tuple[float, float]
    """95 % interval of the difference."""
    p_value: float
    """Two-sided exact McNemar test: chance of so uneven wins and losses if both were as good."""


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
