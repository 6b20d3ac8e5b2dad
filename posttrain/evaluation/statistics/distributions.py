"""Student's t and the binomial distribution.

Three functions do not pay for SciPy at run time, 143 MB and 0.4 s to import; tests hold them to it.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

NORMAL = NormalDist()
# From here on the expansion around the normal distribution is exact to nine digits.
_MANY = 100


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


@cache
def student_quantile(freedom: int, level: float = 0.95) -> float:
    """Value that Student's t stays below in absolute size with a chance of ``level``.

    Args:
        freedom: Degrees of freedom, at least 1.
        level: Above 0 and below 1.

    Source:
        Abramowitz and Stegun 1964, 26.7.5, for many degrees of freedom.
    """
    z, n = NORMAL.inv_cdf((1 + level) / 2), freedom
    if freedom >= _MANY:
        return (
            z
            + (z**3 + z) / (4 * n)
            + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
            + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
        )
    low, high = 0.0, z
    while student_p_value(high, freedom) > 1 - level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        above = student_p_value(middle, freedom) > 1 - level
        low, high = (middle, high) if above else (low, middle)
    return high


def binomial_chance(hits: int, tries: int, share: float) -> float:
    """Chance of exactly ``hits`` of ``tries``, each with a chance of ``share``."""
    if share in (0.0, 1.0):
        return float(hits == tries * share)
    # Through logarithms: the coefficients leave the range of floats above 1,000.
    ways = math.lgamma(tries + 1) - math.lgamma(hits + 1) - math.lgamma(tries - hits + 1)
    return math.exp(ways + hits * math.log(share) + (tries - hits) * math.log1p(-share))
