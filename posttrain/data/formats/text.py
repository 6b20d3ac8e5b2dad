"""Plain text: the first field of a row that holds some; messages are joined where none does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.data.formats.fields import other_fields
from posttrain.data.records import Row, RowError, Text

_CONVERSATIONS = ("messages", "conversations")


def convert_text(row: Row, text_fields: Sequence[str] = ("text", "content")) -> Text:
    """Convert a row.

    Args:
        row: The row.
        text_fields: Fields that may hold the text, in order of preference.

    Raises:
        RowError: No field holds text.
    """
    for name in text_fields:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return Text(_checked(value), other_fields(row, {name}))
    for name in _CONVERSATIONS:
        if isinstance(row.get(name), list):
            turns = [_turn_text(turn) for turn in row[name]]
            if text := "\n".join(turn for turn in turns if turn):
                return Text(_checked(text), other_fields(row, {name}))
    raise RowError("no text", f"none of {', '.join(text_fields)} holds any")


def _turn_text(turn: Any) -> str:
    if not isinstance(turn, dict):
        return ""
    value = turn.get("content", turn.get("value"))
    return value.strip() if isinstance(value, str) else ""


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("a text is not valid Unicode", error.reason) from None
    return text
