from fractions import Fraction

import pytest

from posttrain.grading.expressions import (
    compare_expressions,
    compare_ratio,
    read_expression,
)
from posttrain.grading.values import values_equal


def value(text):
    read = read_expression(text)
    assert read is not None
    return read.at({})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2+3*4", 14),
        ("-2^2", -4),
        ("(-2)^2", 4),
        ("6/2(3)", 9),
        ("2^-1", Fraction(1, 2)),
        (r"\frac12", Fraction(1, 2)),
        (r"\frac{1}{2}\cdot4", 2),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        (r"2(\frac{1}{3})", Fraction(2, 3)),
        ("x^12", None),
        (r"\sqrt{\frac{4}{9}}", Fraction(2, 3)),
        (r"\sqrt[3]{-27}", -3),
        ("4^{1/2}", 2),
        ("|3-5|", 2),
        ("5!", 120),
        (r"\binom{5}{2}", 10),
        ("3*sqrt(16)", 12),
        ("0.1+0.2", Fraction(3, 10)),
        ("i^2", -1),
    ],
)
def test_values_are_exact_where_they_can_be(text, wanted):
    if wanted is None:
        # x^12 is x to the one, times two: LaTeX takes one character, and a digit stands alone.
        assert read_expression(text) is None
    else:
        assert values_equal(value(text), Fraction(wanted))


@pytest.mark.parametrize(
    ("text", "near"),
    [(r"\pi", 3.14159265), (r"\sin\frac{\pi}{2}", 1), (r"\ln e", 1), (r"\log_3 9", 2),
     ("e", 2.7182818)],
)  # fmt: skip
def test_constants_and_functions(text, near):
    assert abs(value(text) - near) < 1e-6


@pytest.mark.parametrize(
    "text",
    ["", "x=5", "1,2", "(1,2]", "even", "2 3", r"\text{x}", ")", r"\frac{1}", "5+", "[1]",
     r"\unknown x"],
)  # fmt: skip
def test_what_is_no_expression_is_not_read(text):
    assert read_expression(text) is None


@pytest.mark.parametrize("text", ["1/0", "9^{9^{9}}", "(9999999)!", "0^{-1}", r"\ln 0"])
def test_what_has_no_value_gives_none(text):
    assert value(text) is None


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("x(x+1)", "x^2+x", True),
        ("x+y", "y+x", True),
        ("x+y", "x-y", False),
        ("x", "z", False),
        ("|x|", "x", None),
        (r"\sqrt{x^2}", "|x|", True),
        ("x_1+x_2", "x_2+x_1", True),
        (r"\infty", r"\infty", True),
        (r"\infty", "5", False),
        ("1/0", "1/0", None),
    ],
)
def test_expressions_are_compared_by_their_values(first, second, equal):
    assert compare_expressions(read_expression(first), read_expression(second)) is equal


@pytest.mark.parametrize(
    ("first", "second", "positive", "same"),
    [
        ("2x-4", "x-2", True, True),
        ("2-x", "x-2", False, True),
        ("2-x", "x-2", True, False),
        ("x-2", "x-3", False, False),
        ("x-y", "y-x", False, True),
    ],
)
def test_equations_are_the_same_up_to_a_factor(first, second, positive, same):
    assert compare_ratio(read_expression(first), read_expression(second), positive=positive) is same
