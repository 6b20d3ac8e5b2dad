"""Arithmetic of bounded size: exact in fractions, else in complex floating point."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from fractions import Fraction

Value = Fraction | complex
_MOST_BITS = 100_000
# Relative difference of floating-point values of equal expressions.
_CLOSE = 1e-9


class UnreadableError(ValueError):
    """A text is no expression that is read here, or its value none that is computed."""


def take_root(value: Value, degree: int) -> Value:
    """Principal root; of a negative number the real one where the degree is odd."""
    if isinstance(value, Fraction):
        sign = -1 if value < 0 and degree % 2 else 1
        if value * sign >= 0:
            parts = [_whole_root(n, degree) for n in (abs(value.numerator), value.denominator)]
            if parts[0] is not None and parts[1] is not None:
                return Fraction(sign * parts[0], parts[1])
            return complex(sign * float(abs(value)) ** (1 / degree))
    return complex(value) ** (1 / degree)


def _whole_root(value: int, degree: int) -> int | None:
    if degree == 2:
        found = math.isqrt(value)
    elif value.bit_length() < 900:
        found = round(float(value) ** (1 / degree))
    else:
        return None
    return found if found**degree == value else None


def raise_power(base: Value, exponent: Value) -> Value:
    """Raise to a power of bounded size.

    Raises:
        UnreadableError: The result would be too large to hold.
    """
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(exponent) > _MOST_BITS:
                raise UnreadableError("too large")
            return base ** int(exponent)
        if exponent.denominator <= 12 and abs(exponent.numerator) <= 100 and base > 0:
            return raise_power(take_root(base, exponent.denominator), Fraction(exponent.numerator))
    return complex(base) ** complex(exponent)


def factorial(value: Value) -> Value:
    """Factorial of a whole number up to 1,000."""
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 1000:
        raise UnreadableError("no factorial")
    return Fraction(math.factorial(int(value)))


def binomial(above: Value, below: Value) -> Value:
    """Binomial coefficient of whole numbers up to 3,000."""
    counts = (above, below)
    if not all(isinstance(n, Fraction) and n.denominator == 1 and 0 <= n <= 3000 for n in counts):
        raise UnreadableError("no binomial coefficient")
    return Fraction(math.comb(int(above.real), int(below.real)))


def _of(function: Callable[[complex], complex]) -> Callable[[Value], Value]:
    return lambda value: function(complex(value))


FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    r"\sin": _of(cmath.sin),
    r"\cos": _of(cmath.cos),
    r"\tan": _of(cmath.tan),
    r"\cot": _of(lambda z: 1 / cmath.tan(z)),
    r"\sec": _of(lambda z: 1 / cmath.cos(z)),
    r"\csc": _of(lambda z: 1 / cmath.sin(z)),
    r"\arcsin": _of(cmath.asin),
    r"\arccos": _of(cmath.acos),
    r"\arctan": _of(cmath.atan),
    r"\sinh": _of(cmath.sinh),
    r"\cosh": _of(cmath.cosh),
    r"\tanh": _of(cmath.tanh),
    r"\ln": _of(cmath.log),
    r"\exp": _of(cmath.exp),
}
"""LaTeX commands of functions."""
CONSTANTS: dict[str, Value] = {r"\pi": complex(math.pi), "e": complex(math.e), "i": 1j}
"""Names that are numbers."""


def magnitude(value: Value) -> Value:
    """Absolute value."""
    return abs(value) if isinstance(value, Fraction) else complex(abs(value))


def values_equal(first: Value, second: Value) -> bool:
    """Whether two values are the same: exactly, where both are exact."""
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first == second
    first, second = complex(first), complex(second)
    return abs(first - second) <= _CLOSE * max(abs(first), abs(second), 1e-3)
