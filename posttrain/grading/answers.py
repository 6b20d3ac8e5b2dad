"""Find the final answer in what a model wrote, and say how it was found."""

from __future__ import annotations

import re
from dataclasses import dataclass

# 1,234.5 | 1234.5 | .5, with a sign; a comma groups exactly three digits.
_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|[-+−]?\.\d+")
_MARKER = re.compile(r"####[ \t]*([^\n]*)")


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
    marked = _MARKER.findall(completion)
    if marked:
        numbers = _NUMBER.findall(marked[-1])
        return FoundAnswer(numbers[0], "marker") if numbers else FoundAnswer(None, "none")
    numbers = _NUMBER.findall(completion)
    return FoundAnswer(numbers[-1], "last_number") if numbers else FoundAnswer(None, "none")
