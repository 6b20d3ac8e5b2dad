"""Find the final answer in what a model wrote, and say how it was found."""

from __future__ import annotations

import re
from dataclasses import dataclass

# 1,234.5 | 1234.5 | .5; a comma groups exactly three digits.
_UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
# A dash after a letter, digit or bracket is a hyphen or minus between terms, no sign. A fraction
# is taken whole: its numerator is not the answer.
_NUMBER = re.compile(rf"(?:(?<![\w)\]])[-+−][$€£¥]?)?{_UNSIGNED}(?:/{_UNSIGNED})?")


@dataclass(frozen=True)
class FoundAnswer:
    """An answer and its provenance."""

    text: str | None
    """The number as written, or None."""
    parse: str
    """``marker``: after the last ``####``; ``last_number``: no marker, the last number of the text
    was taken; ``none``: there is no number."""


def find_numeric_answer(completion: str) -> FoundAnswer:
    """Find the final number of a worked solution.

    The number after the last ``####`` is the answer. Without the marker, the last number of the
    text is taken and reported as such, so that strict and flexible scores can both be told.

    Args:
        completion: What the model wrote.

    Returns:
        The answer with its parse status.
    """
    _, marker, after = completion.rpartition("####")
    if marker:
        found = _NUMBER.search(after.partition("\n")[0])
        return FoundAnswer(found[0], "marker") if found else FoundAnswer(None, "none")
    numbers = _NUMBER.findall(completion)
    return FoundAnswer(numbers[-1], "last_number") if numbers else FoundAnswer(None, "none")
