"""Reading fields of a row with countable reasons for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from posttrain.data.records import Row, RowError


def read_text(row: Row, name: str, *, required: bool = True) -> str:
    """Return a text field.

    Args:
        row: The row.
        name: The field.
        required: Whether an absent or empty field is a mistake.

    Returns:
        The text as it stands; empty where it is absent and not required.

    Raises:
        RowError: Absent, empty or not text.
    """
    value = row.get(name)
    if value is None or value == "":
        if required:
            raise RowError(f"no `{name}`")
        return ""
    if not isinstance(value, str):
        raise RowError(f"`{name}` is not text", type(value).__name__)
    if required and not value.strip():
        raise RowError(f"no `{name}`")
    return value


def read_reference(row: Row) -> str | None:
    """Return the final answer that a row states in ``reference``; numbers become text."""
    value = row.get("reference")
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and value.strip() else None


def other_texts(row: Row, used: Sequence[str]) -> dict[str, str]:
    """Return the row's remaining text fields, by which a problem may be identified."""
    return {k: v for k, v in row.items() if k not in used and isinstance(v, str) and v}


def parse_json(text: str, what: str) -> Any:
    """Parse JSON that a row holds as a string.

    Args:
        text: The string.
        what: Field or turn, for the reject.

    Raises:
        RowError: It is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError("broken JSON inside a field", f"{what}: {error}") from None
