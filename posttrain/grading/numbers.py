"""Numbers as they are written in prose, compared exactly."""

from __future__ import annotations

import re
from decimal import Decimal

_WRITTEN = re.compile(r"[-+]?(?:\d{1,3}(?:[, ]\d{3})+|\d+)?(?:\.\d+|(?<=\d)\.)?")
_CURRENCY = re.compile(r"^([-+]?)[$¥€£] ?")
_MOST_CHARACTERS = 1000


def numbers_equal(answer: str, reference: str) -> bool:
    """Exact numeric equality.

    ``23.0`` equals ``23``, ``1,000`` equals ``1000``. A hundredth or a hundredfold does not:
    accepting it, as percent rules do, marks wrong answers right.

    Args:
        answer: A number as written.
        reference: The reference's number as written.

    Returns:
        Whether they are the same number; False where one is no number.
    """
    first, second = parse_number(answer), parse_number(reference)
    return first is not None and first == second


def parse_number(text: str) -> Decimal | None:
    """Read a written number: a currency sign before it and grouping of thousands are let go.

    Returns:
        The exact value, or None where the text is no number.
    """
    if len(text) > _MOST_CHARACTERS:
        return None
    cleaned = _CURRENCY.sub(r"\1", text.strip().replace("−", "-"))
    if not _WRITTEN.fullmatch(cleaned) or not any(map(str.isdigit, cleaned)):
        return None
    return Decimal(cleaned.replace(",", "").replace(" ", ""))
