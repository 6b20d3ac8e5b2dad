"""Whether two written answers mean the same, as far as it can be told without algebra."""

from __future__ import annotations

from posttrain.grading.normalization import (
    MOST_CHARACTERS,
    has_percent,
    join_thousands,
    normalize_formula,
    read_decimal_comma,
    split_unit,
)
from posttrain.grading.numbers import numbers_equal
from posttrain.grading.structures import compare_lists, compare_values


def formulas_equal(answer: str, reference: str) -> bool:
    """Whether two formulas are surely the same; see ``compare_formulas``."""
    return compare_formulas(answer, reference) is True


def compare_formulas(answer: str, reference: str) -> bool | None:
    r"""Compare two formulas by their shape and value.

    The conventions are those of ``docs/grading.md``.

    Args:
        answer: As written by a model.
        reference: The right answer.

    Returns:
        Whether they are equal; None where that takes algebra.
    """
    if max(len(answer), len(reference)) > MOST_CHARACTERS:
        return answer.strip() == reference.strip() != ""
    first, second = (normalize_formula(join_thousands(text)) for text in (answer, reference))
    if not first or not second:
        return False
    found = first == second or compare_lists(first, second)
    if found is not True and "," in answer and "," in reference:
        # "100,200" may be a list after all.
        found = compare_lists(normalize_formula(answer), normalize_formula(reference))
    if found is not True and ("." in first) != ("." in second):
        # A decimal comma, where the other side has a decimal point.
        found = numbers_equal(read_decimal_comma(first), read_decimal_comma(second)) or found
    percents = has_percent(answer), has_percent(reference)
    if found is not True and percents[0] != percents[1]:
        # 10% is 10, and it is 0.1.
        sides = (f"({first})/100", second) if percents[0] else (first, f"({second})/100")
        found = compare_values(*sides) or found
    return False if found is not False and _units_differ(answer, reference) else found


def _units_differ(answer: str, reference: str) -> bool:
    units = split_unit(answer.strip())[1], split_unit(reference.strip())[1]
    return bool(units[0] and units[1] and units[0] != units[1])
