r"""Read LaTeX expressions, and compare their values without a computer algebra system.

Two expressions are equal where they have the same value at several points: exactly, in fractions,
as long as no root or function is irrational, else in complex floating point. Most answers are
settled by that in microseconds; what cannot be read is left to ``grading.math``.

What is read is data: every power and every depth has its bound.
"""

from __future__ import annotations

import cmath
import functools
import operator
import re
import string
from collections.abc import Callable, Mapping
from fractions import Fraction

from posttrain.grading.normalization import MOST_CHARACTERS
from posttrain.grading.values import (
    CONSTANTS,
    FUNCTIONS,
    UnreadableError,
    Value,
    binomial,
    factorial,
    magnitude,
    raise_power,
    take_root,
    values_equal,
)

Node = Callable[[Mapping[str, Value]], Value]
"""An expression as a function of its variables."""

_MOST_DEPTH = 40
_TOKEN = re.compile(r"\d+(?:\.\d*)?|\.\d+|\\[a-zA-Z]+|\\.|\S")
_WORDS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}")
_NAMES = re.compile(r"(?<![\\a-zA-Z])(sqrt|sin|cos|tan|log|ln|pi|frac)(?![a-zA-Z])")
_PLAIN_ROOT = re.compile(r"\\sqrt\s*\(")


# Infinity equals itself alone.
_GREEK = frozenset(
    rf"\{name}"
    for name in (
        *("infty", "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta"),
        *("theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "phi"),
        *("varphi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma"),
        *("Phi", "Psi", "Omega"),
    )
)
_TIMES = frozenset({"*", r"\cdot", r"\times", r"\ast"})
_OVER = frozenset({"/", r"\div"})
_LETTERS = frozenset(string.ascii_letters)
_OPENERS = _LETTERS | {"(", "{", "\\"}
_CLOSING = {"(": ")", "{": "}", "[": "]", "|": "|"}


def _join(function: Callable[..., Value], *nodes: Node) -> Node:
    return lambda point: function(*(node(point) for node in nodes))


class _Reader:
    """Reads one expression by recursive descent."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)
        self.at = 0
        self.depth = 0
        self.bars = 0
        self.names: set[str] = set()

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str | None = None) -> str:
        sign = self.peek()
        if not sign or (wanted is not None and sign != wanted):
            raise UnreadableError(f"{wanted or 'more'} is missing")
        self.at += 1
        return sign

    def read(self) -> Node:
        node = self.sum()
        if self.peek():
            raise UnreadableError(f"{self.peek()} is left over")
        return node

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            raise UnreadableError("too deep")
        node = self.product()
        while self.peek() in ("+", "-"):
            sign = operator.add if self.take() == "+" else operator.sub
            node = _join(sign, node, self.product())
        self.depth -= 1
        return node

    def product(self) -> Node:
        if self.peek() in ("+", "-"):
            sign = self.take()
            self.depth += 1
            if self.depth > _MOST_DEPTH:
                raise UnreadableError("too deep")
            node = self.product()
            self.depth -= 1
            return node if sign == "+" else _join(operator.neg, node)
        node = self.power()
        while True:
            sign = self.peek()
            if sign in _TIMES:
                self.take()
                node = _join(operator.mul, node, self.signed())
            elif sign in _OVER:
                self.take()
                node = _join(operator.truediv, node, self.signed())
            elif self.starts_atom(sign):
                node = _join(operator.mul, node, self.power())
            else:
                return node

    def signed(self) -> Node:
        if self.peek() in ("+", "-"):
            sign = self.take()
            node = self.power()
            return node if sign == "+" else _join(operator.neg, node)
        return self.power()

    def starts_atom(self, sign: str) -> bool:
        if sign == "|":
            return not self.bars
        # A digit behind another factor is no product: "2 3" is not 6.
        return sign[:1] in _OPENERS and sign not in _STOPS

    def power(self) -> Node:
        node = self.atom()
        while self.peek() == "!":
            self.take()
            node = _join(factorial, node)
        if self.peek() == "^":
            self.take()
            node = _join(raise_power, node, self.argument())
        return node

    def argument(self) -> Node:
        """What stands behind a command or ``^``: a group, a command or a single character."""
        sign = self.peek()
        if sign == "{" or sign.startswith("\\"):
            return self.atom()
        if sign == "-":
            self.take()
            return _join(operator.neg, self.atom())
        if sign[:1].isdigit():
            # \frac12 and x^12 take one digit each.
            self.take()
            if len(sign) > 1:
                self.at -= 1
                self.tokens[self.at] = sign[1:]
            value = Fraction(sign[0])
            return lambda _: value
        if sign == "(":
            return self.atom()
        if sign[:1] in _LETTERS:
            return self.variable(self.take())
        raise UnreadableError("no argument")

    def atom(self) -> Node:
        sign = self.take()
        if sign[0].isdigit() or (sign[0] == "." and len(sign) > 1):
            return self.number(sign)
        if sign in ("(", "{", "|"):
            return self.group(sign)
        if sign == r"\frac":
            return _join(operator.truediv, self.argument(), self.argument())
        if sign == r"\binom":
            return _join(binomial, self.argument(), self.argument())
        if sign == r"\sqrt":
            return self.root()
        if sign in FUNCTIONS or sign == r"\log":
            return self.function(sign)
        if sign in _LETTERS or sign in _GREEK or sign == r"\pi":
            return self.variable(sign)
        raise UnreadableError(f"{sign} is not read")

    def number(self, sign: str) -> Node:
        whole = Fraction(sign if sign[0] != "." else f"0{sign}")
        if self.peek() == r"\frac" and sign.isdigit():
            # A mixed number: 3\frac12 is three and a half, where all of it is digits.
            start = self.at
            self.take()
            parts = [self.digits(), self.digits()]
            if parts[0] is not None and parts[1]:
                whole += Fraction(parts[0], parts[1])
                return lambda _: whole
            self.at = start
        return lambda _: whole

    def digits(self) -> int | None:
        if self.peek() == "{" and self.tokens[self.at + 2 : self.at + 3] == ["}"]:
            found = self.tokens[self.at + 1]
            self.at += 3
        else:
            found = self.peek()
            self.at += 1
            if len(found) > 1:
                return None
        return int(found) if found.isdecimal() and len(found) < 30 else None

    def group(self, opening: str) -> Node:
        bars, self.bars = self.bars, opening == "|"
        node = self.sum()
        self.take(_CLOSING[opening])
        self.bars = bars
        return _join(magnitude, node) if opening == "|" else node

    def root(self) -> Node:
        degree = 2
        if self.peek() == "[":
            self.take()
            written = self.take()
            self.take("]")
            if not written.isdecimal() or not 2 <= int(written[:3]) <= 20:
                raise UnreadableError("no degree")
            degree = int(written)
        return _join(lambda value: take_root(value, degree), self.argument())

    def function(self, name: str) -> Node:
        apply = FUNCTIONS.get(name, FUNCTIONS[r"\ln"])
        if name == r"\log" and self.peek() == "_":
            self.take()
            base = self.argument()
            return _join(lambda b, v: cmath.log(v) / cmath.log(b), base, self.operand())
        exponent: Node | None = None
        if self.peek() == "^":
            self.take()
            if self.peek() == "{" and self.tokens[self.at + 1 : self.at + 2] == ["-"]:
                raise UnreadableError("an inverse function")
            exponent = self.argument()
        node = _join(apply, self.operand())
        return _join(raise_power, node, exponent) if exponent else node

    def operand(self) -> Node:
        """What a function is applied to: a group, or the factors up to the next function."""
        if self.peek() in ("(", "{"):
            return self.power()
        node = self.signed()
        while (sign := self.peek()) and sign not in FUNCTIONS and sign != r"\log":
            if not (self.starts_atom(sign) and sign not in ("(", "|")):
                break
            node = _join(operator.mul, node, self.power())
        return node

    def variable(self, name: str) -> Node:
        if self.peek() == "_":
            self.take()
            name += "_" + self.subscript()
        if name in CONSTANTS:
            value = CONSTANTS[name]
            return lambda _: value
        self.names.add(name)
        return lambda point: point[name]

    def subscript(self) -> str:
        if self.peek() != "{":
            sign = self.take()
            if len(sign) > 1 and sign[0].isdigit():
                self.at -= 1
                self.tokens[self.at] = sign[1:]
                return sign[0]
            return sign
        self.take()
        found = ""
        while self.peek() != "}":
            found += self.take()
        self.take("}")
        return found


_STOPS = frozenset({r"\}", r"\{", r"\right", r"\left", r"\\", r"\cup", r"\in", r"\leq", r"\geq"})


class Expression:
    """One readable expression."""

    def __init__(self, node: Node, names: frozenset[str]) -> None:
        self.names = names
        self._node = node

    def at(self, point: Mapping[str, Value]) -> Value | None:
        """Value at a point; None where it has none, or none that can be computed."""
        try:
            value = self._node(point)
        except (ArithmeticError, UnreadableError, ValueError):
            return None
        if isinstance(value, Fraction):
            return value
        value = complex(value)
        return value if cmath.isfinite(value) else None


@functools.lru_cache(maxsize=4096)
def read_expression(text: str) -> Expression | None:
    """Read an expression.

    Args:
        text: LaTeX, or plain such as ``3*sqrt(2)``, without the formula's signs.

    Returns:
        The expression, or None where it is not one, or is one that only algebra reads.
    """
    if not text or len(text) > MOST_CHARACTERS:
        return None
    text = _PLAIN_ROOT.sub(r"\\sqrt(", _NAMES.sub(r"\\\1", text))
    if _WORDS.search(text):
        return None
    reader = _Reader(text)
    try:
        node = reader.read()
    except UnreadableError:
        return None
    return Expression(node, frozenset(reader.names))


# Places of the variables, by turns all positive, where roots and logarithms are unambiguous, and of
# mixed sign, where |x| and x differ.
_POINTS = 4


def _place(name: str, turn: int) -> Fraction:
    seed = sum((i + 1) * ord(c) for i, c in enumerate(name))
    value = Fraction(3 + (seed * 37 + turn * 101) % 89, 7 + (seed * 11 + turn * 29) % 17)
    return -value if turn % 2 and (seed + turn // 2) % 3 else value


def compare_expressions(first: Expression, second: Expression) -> bool | None:
    """Compare two expressions by their values.

    Returns:
        True where they are equal at every point that gives both a value, False where they differ
        at one with positive variables, None where that says too little.
    """
    names = first.names | second.names
    seen = 0
    verdict: bool | None = True
    for turn in range(_POINTS if names else 1):
        point: dict[str, Value] = {name: _place(name, turn) for name in names}
        values = first.at(point), second.at(point)
        if values[0] is None or values[1] is None:
            continue
        seen += 1
        if not values_equal(values[0], values[1]):
            if not turn % 2:
                return False
            verdict = None
    return verdict if seen >= (2 if names else 1) else None


def compare_ratio(first: Expression, second: Expression, *, positive: bool) -> bool | None:
    """Compare two equations or inequalities by the differences of their sides.

    Args:
        first: Left side less right side.
        second: The same of the other one.
        positive: Whether the two must have one sign, as in inequalities.

    Returns:
        Whether one is a constant multiple of the other; None where that cannot be told.
    """
    names = first.names | second.names
    ratio: Value | None = None
    for turn in range(_POINTS):
        point: dict[str, Value] = {name: _place(name, turn) for name in names}
        values = first.at(point), second.at(point)
        if values[0] is None or values[1] is None or not values[0] or not values[1]:
            return None
        found = values[0] / values[1]
        if ratio is not None and not values_equal(ratio, found):
            return False
        ratio = found
    return ratio is not None and not (positive and complex(ratio).real < 0)
