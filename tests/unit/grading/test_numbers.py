from decimal import Decimal

import pytest

from posttrain.grading.numbers import numbers_equal, parse_number

EQUAL = [
    ("23", "23"),
    ("23.0", "23"),
    ("23.", "23"),
    ("1,000", "1000"),
    ("1,234,567.80", "1234567.8"),
    ("$1,234", "1234"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("−5", "-5"),
    ("+7", "7"),
    (".5", "0.5"),
    ("007", "7"),
    ("-0", "0"),
    ("9 500", "9500"),
    (" 12 ", "12"),
    ("€3.10", "3.1"),
    ("12345678901234567890.1", "12345678901234567890.10"),
]
DIFFERENT = [
    ("50", "0.5"),
    ("0.5", "50"),
    ("5", "500"),
    ("10%", "10"),
    ("-5", "5"),
    ("23.1", "23"),
    ("0.1", "0.10000000000000001"),
    ("12345678901234567890.1", "12345678901234567890.2"),
    ("1,2", "12"),
    ("3 4", "34"),
    ("1,00", "100"),
    ("1/2", "1"),
    ("1/2", "0.5"),
    ("1_000", "1000"),
    ("1e3", "1000"),
    ("nan", "nan"),
    ("inf", "inf"),
    ("", ""),
    (".", "."),
    ("-", "-"),
    ("$", "$"),
    ("twelve", "twelve"),
    ("5 apples", "5"),
]


@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_one_number_in_two_writings_is_equal(first, second):
    assert numbers_equal(first, second)
    assert numbers_equal(second, first)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_other_numbers_and_what_is_no_number_are_not_equal(first, second):
    assert not numbers_equal(first, second)
    assert not numbers_equal(second, first)


def test_values_are_exact():
    assert parse_number("$0.10") == Decimal("0.1")
    assert parse_number("text") is None
