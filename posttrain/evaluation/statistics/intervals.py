"""Intervals: of shares, of means, and of ratios such as nats per token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.evaluation.statistics.distributions import (
    NORMAL,
    student_p_value,
    student_quantile,
)

LEVEL = 0.95
"""Of every interval that stands by itself."""
_DRAWS = 10_000
_MOST_CELLS = 2_000_000
_FEW_KINDS = 64


def wilson_interval(correct: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval of a share of independent answers.

    Args:
        correct: Right answers, 0 to ``total``.
        total: Answers, at least 1.
        level: Of confidence.

    Returns:
        Lower and upper bound, within 0 and 1; sensible at 0 and at ``total`` too.

    Raises:
        ValueError: The counts are impossible.

    Source:
        Wilson 1927, JASA 22; Brown, Cai and DasGupta 2001, Statistical Science 16(2).
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is not a share")
    return _score_interval(correct / total, total, NORMAL.inv_cdf((1 + level) / 2))


def _score_interval(share: float, size: float, critical: float) -> tuple[float, float]:
    square = critical**2
    center = (share + square / (2 * size)) / (1 + square / size)
    spread = share * (1 - share) / size + square / (4 * size**2)
    half = critical / (1 + square / size) * math.sqrt(spread)
    # At the ends the exact bounds are 0 and 1; rounding would miss them by 1e-17.
    low = 0.0 if share == 0 else max(0.0, center - half)
    high = 1.0 if share == 1 else min(1.0, center + half)
    return low, high


@dataclass(frozen=True)
class RatioEstimate:
    """A mean, or a ratio of two totals, over a sample."""

    value: float
    interval: tuple[float, float] | None
    """None for a sample of one."""
    p_value: float | None
    """Two-sided t test against 0; None for a sample of one."""
    standard_error: float | None
    """None for a sample of one."""


def estimate_ratio(
    totals: Sequence[float], sizes: Sequence[float], level: float = LEVEL
) -> RatioEstimate:
    """Estimate sum(totals) / sum(sizes), where both vary from item to item.

    With the totals and sizes of clusters (``sum_clusters``) it is the mean over their members, and
    the standard error is the clustered one.

    Args:
        totals: One per item, such as the nats of a document.
        sizes: One per item, such as its tokens; positive.
        level: Of the interval.

    Returns:
        The ratio with the t interval of its linearization.

    Raises:
        ValueError: Lengths differ or are 0, or a size is not positive.

    Source:
        Cochran 1977, Sampling Techniques, 3rd edition, section 6.4; of clusters, section 9A.6.
    """
    if len(totals) != len(sizes) or not len(totals) or min(sizes) <= 0:
        raise ValueError("a ratio needs a total and a positive size per item")
    count, whole = len(totals), math.fsum(sizes)
    ratio = math.fsum(totals) / whole
    if count == 1:
        return RatioEstimate(ratio, None, None, None)
    squares = math.fsum((y - ratio * x) ** 2 for y, x in zip(totals, sizes, strict=True))
    error = math.sqrt(count / (count - 1) * squares) / whole
    half = student_quantile(count - 1, level) * error
    if error == 0:
        p_value = 1.0 if ratio == 0 else 0.0
    else:
        p_value = student_p_value(ratio / error, count - 1)
    return RatioEstimate(ratio, (ratio - half, ratio + half), p_value, error)


def sum_clusters(
    values: Sequence[float], clusters: Sequence[str | None] | None
) -> tuple[list[float], list[int]]:
    """Add up what does not vary independently, such as questions about one passage.

    Args:
        values: One per item.
        clusters: The cluster of each, None for an item that stands alone; None for all of them.

    Returns:
        Total and number of members of each cluster, in order of appearance.
    """
    if clusters is None:
        return list(values), [1] * len(values)
    found: dict[object, list[float]] = {}
    for place, (value, cluster) in enumerate(zip(values, clusters, strict=True)):
        found.setdefault(place if cluster is None else cluster, []).append(value)
    return [math.fsum(members) for members in found.values()], [len(m) for m in found.values()]


def estimate_share(
    values: Sequence[float],
    *,
    clusters: Sequence[str | None] | None = None,
    samples: int | None = None,
    level: float = LEVEL,
) -> RatioEstimate:
    """Estimate the mean of values between 0 and 1, such as the share of each problem's samples.

    Right and wrong answers that are independent have Wilson's interval. Everything else has the
    same interval of as many independent answers as would leave the same (clustered) standard error,
    with Student's t: it stays between 0 and 1, and holds where few clusters are all right.

    Args:
        values: One per item, from 0 to 1.
        clusters: As for ``sum_clusters``.
        samples: Answers behind all values, the most that they can count for; as many as values
            where absent.
        level: Of the interval.

    Returns:
        Mean, interval and standard error; the p value is None.

    Raises:
        ValueError: There is no value, or one is not between 0 and 1.

    Source:
        Franco, Little, Louis and Slud 2019, Journal of Survey Statistics and Methodology 7(3).
    """
    if not len(values) or min(values) < 0 or max(values) > 1:
        raise ValueError("a share needs values between 0 and 1")
    totals, sizes = sum_clusters(values, clusters)
    found = estimate_ratio(totals, sizes)
    share, count = min(found.value, 1.0), len(totals)
    if count == len(values) and all(value in (0, 1) for value in values):
        critical, effective = NORMAL.inv_cdf((1 + level) / 2), float(count)
    elif count == 1:
        critical, effective = NORMAL.inv_cdf((1 + level) / 2), 1.0
    else:
        critical = student_quantile(count - 1, level)
        spread, error = share * (1 - share), found.standard_error or 0.0
        # Where all are right nothing tells how alike the members of a cluster are: as if all were.
        likened = float(count) if spread == 0 else samples or len(values)
        effective = min(spread / error**2, likened) if error else likened
    interval = _score_interval(share, effective, critical)
    return RatioEstimate(share, interval, None, found.standard_error)


def bootstrap_interval(
    totals: Sequence[float],
    sizes: Sequence[float],
    level: float = LEVEL,
    *,
    draws: int = _DRAWS,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Interval of sum(totals) / sum(sizes) from clusters drawn anew with replacement.

    The percentiles are taken as far out as Student's t lies beyond the normal distribution: plain
    percentiles are too narrow for few clusters by what BCa does not mend (it corrects skew alone).

    Args:
        totals: One per cluster (or per item, where they stand alone).
        sizes: The same.
        level: Of the interval.
        draws: Of the whole sample.
        seed: The same seed gives the same interval.

    Returns:
        Lower and upper bound; None for a sample of one.

    Source:
        Hesterberg 2015, The American Statistician 69(4), section 4.2: expanded percentiles.
    """
    import numpy as np

    count = len(totals)
    if count < 2:
        return None
    whole = np.column_stack([totals, sizes]).astype(float)
    kinds, ties = np.unique(whole, axis=0, return_counts=True)
    draw = np.random.default_rng(seed)
    rows = max(1, _MOST_CELLS // count)
    ratios = []
    for start in range(0, draws, rows):
        drawn = min(rows, draws - start)
        if len(kinds) <= _FEW_KINDS:  # right or wrong: how many of each kind is all that matters
            totals_D, sizes_D = (draw.multinomial(count, ties / count, size=drawn) @ kinds).T
        else:
            chosen = draw.integers(count, size=(drawn, count))
            totals_D, sizes_D = (whole[:, column][chosen].sum(axis=1) for column in (0, 1))
        ratios.append(totals_D / sizes_D)
    outside = NORMAL.cdf(-math.sqrt(count / (count - 1)) * student_quantile(count - 1, level))
    low, high = np.quantile(np.concatenate(ratios), [outside, 1 - outside])
    return float(low), float(high)
