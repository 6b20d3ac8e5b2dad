"""Alpaca: ``instruction``, optional ``input``, ``output``; optional ``system`` and ``history``."""

from __future__ import annotations

from typing import Any

from posttrain.data.formats.fields import other_fields, read_reference, read_text
from posttrain.data.records import Chat, Message, Row, RowError

_USED = frozenset(("instruction", "input", "output", "system", "history", "reference"))


def convert_alpaca(row: Row) -> Chat:
    """Convert a row; ``history`` is a list of [user, assistant] pairs before the instruction.

    Raises:
        RowError: A field is missing or of the wrong type.
    """
    messages: list[Message] = []
    if system := read_text(row, "system", required=False):
        messages.append({"role": "system", "content": system})
    history = row.get("history") or []
    if not isinstance(history, list):
        raise RowError("`history` is not a list")
    for pair in history:
        if not _is_pair(pair):
            raise RowError("`history` holds something else than [user, assistant] pairs")
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    instruction = read_text(row, "instruction")
    extra = read_text(row, "input", required=False)
    messages.append(
        {"role": "user", "content": f"{instruction}\n{extra}" if extra else instruction}
    )
    messages.append({"role": "assistant", "content": read_text(row, "output")})
    return Chat(tuple(messages), reference=read_reference(row), keys=other_fields(row, _USED))


def _is_pair(value: Any) -> bool:
    listed = isinstance(value, list | tuple) and len(value) == 2
    return listed and all(isinstance(text, str) for text in value)
