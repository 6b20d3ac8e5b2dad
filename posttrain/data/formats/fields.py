"""Reading fields of a row with countable reasons for what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Set as AbstractSet
from typing import Any

from posttrain.data.records import Row, RowError

TOO_DEEP = "nested too deeply"
_DEEPEST = 64
_LONGEST_INTEGER_BITS = 4096
_NO_JSON = "a value is not JSON"


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
    if value is None:
        return None
    text = "" if isinstance(value, bool) else scalar_text(value)
    return text if text.strip() else None


def scalar_text(value: Any) -> str:
    """Return a text, number, or true or false as text; empty for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Python refuses to write out longer ones.
        return str(value) if value.bit_length() <= _LONGEST_INTEGER_BITS else ""
    return repr(value) if isinstance(value, float) and math.isfinite(value) else ""


def describe(value: Any) -> str:
    """Show a value of any kind in a reject's detail: a scalar, cut short, or its type."""
    return scalar_text(value)[:40] or type(value).__name__


def other_fields(row: Row, used: AbstractSet[str]) -> dict[str, str]:
    """Return a row's remaining scalar fields as text, by which it is identified and grouped.

    Args:
        row: The row.
        used: Fields that the format has read.

    Returns:
        Name -> text; the scalar fields of ``metadata`` as ``metadata.NAME``.
    """
    if row.keys() <= used:
        return {}
    keys = {}
    for name, value in row.items():
        if name in used or value is None:
            continue
        if name == "metadata" and isinstance(value, dict):
            nested = ((f"metadata.{part}", scalar_text(inner)) for part, inner in value.items())
            keys.update({part: text for part, text in nested if text})
        elif text := value if type(value) is str else scalar_text(value):
            keys[name] = text
    return keys


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


def check_json(value: Any, what: str, depth: int = 0) -> None:
    """Check that a value can be written as JSON by anyone: declared tools, arguments of calls.

    Args:
        value: As read from a file.
        what: Field or turn, for the reject.
        depth: Of this value inside the whole.

    Raises:
        RowError: A number is not finite or too long, a key is not text, a type is not JSON's, or
            it is nested too deeply.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is dict or kind is list:
        if depth > _DEEPEST:
            raise RowError(TOO_DEEP, what)
        if kind is dict:
            for name in value:
                if type(name) is not str:
                    raise RowError(_NO_JSON, f"{what}: the key {describe(name)}")
            value = value.values()
        for item in value:
            if type(item) is not str:
                check_json(item, what, depth + 1)
    elif kind is int:
        if value.bit_length() > _LONGEST_INTEGER_BITS:
            raise RowError(_NO_JSON, f"{what}: a number of {value.bit_length()} bits")
    elif kind is not float or not math.isfinite(value):
        raise RowError(_NO_JSON, f"{what}: {describe(value)}")
