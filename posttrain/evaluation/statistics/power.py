"""What a set of problems can show: power of the paired test, and what difference it detects."""

from __future__ import annotations

import math

from posttrain.evaluation.statistics.distributions import (
    NORMAL,
    binomial_chance,
    student_quantile,
)
from posttrain.evaluation.statistics.intervals import LEVEL

POWER = 0.8
"""Chance with which a difference that is called detectable is found."""
_MOST_PROBLEMS = 10_000_000
_MANY = 20_000
"""From here on the guess is within a hundredth of the exact number."""
_FAR = 8.0
"""Standard deviations beyond which nothing is counted: a chance of 1e-15."""


def mcnemar_power(total: int, discordance: float, difference: float, level: float = LEVEL) -> float:
    """Chance that the exact McNemar test finds a difference between two models.

    Args:
        total: Problems that both answer.
        discordance: Share of problems that only one of them has right.
        difference: Of their accuracies, from 0 to ``discordance``.
        level: The test errs with a chance of at most 1 - ``level``.

    Returns:
        The chance of a p value below that, in either direction.

    Raises:
        ValueError: No two models differ so.
    """
    if total < 1 or not 0 <= difference <= discordance <= 1:
        raise ValueError(f"{difference} apart with {discordance} discordant is impossible")
    if discordance == 0:
        return 0.0
    first = _least(total, discordance)
    last = total - _least(total, 1 - discordance)
    won = (1 + difference / discordance) / 2
    # From one number of discordant problems to the next, tails change by one term.
    losing = _largest_loss(first, 1 - level)
    few = _tail(losing, first, 0.5)
    least, most = _tail(losing, first, 1 - won), _tail(losing, first, won)
    power = 0.0
    for count in range(first, last + 1):
        power += binomial_chance(count, total, discordance) * (least + most)
        few -= 0.5 * _chance(losing, count, 0.5)
        least -= (1 - won) * _chance(losing, count, 1 - won)
        most -= won * _chance(losing, count, won)
        step = _chance(losing + 1, count + 1, 0.5)
        if 2 * (few + step) <= 1 - level:
            losing, few = losing + 1, few + step
            least += _chance(losing, count + 1, 1 - won)
            most += _chance(losing, count + 1, won)
    return min(1.0, power)


def _largest_loss(count: int, error: float) -> int:
    """The most problems that the worse side may have alone, of ``count``, at p below ``error``."""
    losing, tail = _least(count, 0.5) - 1, 0.0
    while losing < count:
        tail += binomial_chance(losing + 1, count, 0.5)
        if 2 * tail > error:
            break
        losing += 1
    return losing


def _tail(most: int, tries: int, share: float) -> float:
    """Chance of at most ``most`` hits."""
    hits = range(_least(tries, share), most + 1)
    return math.fsum(binomial_chance(n, tries, share) for n in hits)


def _least(tries: int, share: float) -> int:
    return max(0, math.floor(tries * share - _FAR * math.sqrt(tries * share * (1 - share)) - 1))


def _chance(hits: int, tries: int, share: float) -> float:
    return binomial_chance(hits, tries, share) if 0 <= hits <= tries else 0.0


def detectable_difference(total: int, discordance: float, level: float = LEVEL) -> float | None:
    """Find the least difference of two accuracies that the exact McNemar test finds 4 times in 5.

    Args:
        total: Problems that both answer.
        discordance: Share of problems that only one of them has right. A difference above it is
            taken to come with as much discordance as it needs.
        level: The test errs with a chance of at most 1 - ``level``.

    Returns:
        The difference, from 0 to 1; None where so few problems can show none at all.
    """
    if mcnemar_power(total, 1.0, 1.0, level) < POWER:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        enough = mcnemar_power(total, max(discordance, middle), middle, level) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def detectable_by_error(standard_error: float, freedom: int, level: float = LEVEL) -> float:
    """Find the least difference that a t test of so large a standard error finds 4 times in 5."""
    return standard_error * (
        student_quantile(freedom, level) + student_quantile(freedom, 2 * POWER - 1)
    )


def problems_needed(
    difference: float, discordance: float, level: float = LEVEL, power: float = POWER
) -> int | None:
    """Find how many problems it takes to show a difference of two accuracies.

    Args:
        difference: Of the accuracies; its sign does not matter.
        discordance: Share of problems that only one of the two models has right.
        level: The exact McNemar test errs with a chance of at most 1 - ``level``.
        power: The chance with which the test is to find it.

    Returns:
        The number; None where there is no difference or it takes above ten millions.

    Source:
        First guess: Connor 1987, Biometrics 43(1), 207-211; then by the exact power.
    """
    size = abs(difference)
    discordance = max(discordance, size)
    if size == 0:
        return None
    critical, sure = NORMAL.inv_cdf((1 + level) / 2), NORMAL.inv_cdf(power)
    spread = math.sqrt(max(0.0, discordance - size**2))
    guess = ((critical * math.sqrt(discordance) + sure * spread) / size) ** 2
    if guess > _MOST_PROBLEMS:
        return None
    if guess > _MANY:
        return math.ceil(guess)
    low, high = 0, math.ceil(guess) + 1
    while mcnemar_power(high, discordance, size, level) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = mcnemar_power(middle, discordance, size, level) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high
