"""Reading fields of a row with countable reasons for what is wrong."""

from __future__ import annotations

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


def other_texts(row: Row, used: tuple[str, ...]) -> dict[str, str]:
    """Return the row's remaining text fields, by which a problem may be identified."""
    return {k: v for k, v in row.items() if k not in used and isinstance(v, str) and v}
