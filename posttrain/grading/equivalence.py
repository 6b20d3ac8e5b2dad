"""Whether two written answers mean the same."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation


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
    """Read a written number: thousands commas, a currency sign and spaces are let go.

    Returns:
        The exact value, or None where the text is no finite number.
    """
    cleaned = text.strip().lstrip("$¥€£").replace(",", "").replace(" ", "").replace("−", "-")
    try:
        value = Decimal(cleaned)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
