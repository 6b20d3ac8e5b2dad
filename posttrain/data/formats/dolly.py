"""Dolly: ``instruction``, optional ``context``, ``response``; optional ``system``."""

from __future__ import annotations

from posttrain.data.formats.fields import other_fields, read_text
from posttrain.data.records import Chat, Message, Row

_USED = frozenset(("instruction", "context", "response", "system"))


def convert_dolly(row: Row) -> Chat:
    """Convert a row; the context follows the instruction after a blank line.

    Raises:
        RowError: A field is missing or not text.
    """
    messages: list[Message] = []
    if system := read_text(row, "system", required=False):
        messages.append({"role": "system", "content": system})
    instruction = read_text(row, "instruction")
    context = read_text(row, "context", required=False)
    question = f"{instruction}\n\n{context}" if context else instruction
    messages.append({"role": "user", "content": question})
    messages.append({"role": "assistant", "content": read_text(row, "response")})
    return Chat(tuple(messages), keys=other_fields(row, _USED))
