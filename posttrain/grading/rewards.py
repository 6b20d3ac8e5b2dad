"""What a completion is worth in training: the evaluation's own graders, so that both agree."""

from __future__ import annotations

from posttrain.grading.answers import STRICT_PARSES
from posttrain.grading.verdicts import Grader, Reference

_GRADER = Grader("answer")


def grade_answer(completion: str, reference: str) -> tuple[bool, bool]:
    """Grade a worked solution.

    Args:
        completion: What the model wrote.
        reference: The right answer; a number is compared as one, anything else as a formula.

    Returns:
        Whether the answer is right, and whether it was given in the form that was asked for.
    """
    verdict = _GRADER.grade(Reference(reference), completion)
    return bool(verdict.correct), verdict.parse in STRICT_PARSES
