"""What a completion is worth in training: the evaluation's own graders, so that both agree."""

from __future__ import annotations

from posttrain.grading.answers import STRICT_PARSES, find_math_answer, find_numeric_answer
from posttrain.grading.equivalence import formulas_equal, numbers_equal, parse_number


def grade_answer(completion: str, reference: str) -> tuple[bool, bool]:
    """Grade a worked solution.

    Args:
        completion: What the model wrote.
        reference: The right answer; a number is compared as one, anything else as a formula.

    Returns:
        Whether the answer is right, and whether it was given in the form that was asked for.
    """
    if parse_number(reference) is not None:
        found = find_numeric_answer(completion)
        right = found.text is not None and numbers_equal(found.text, reference)
    else:
        found = find_math_answer(completion)
        right = found.text is not None and formulas_equal(found.text, reference)
    return right, found.parse in STRICT_PARSES
