"""Plain text: the first field of a row that holds some, else the turns of its conversation.

The text of a conversation is its declared tools, then its turns without their roles: reasoning,
content and calls. Tools and calls are a line of JSON each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from posttrain.data.formats.catalog import FORMATS
from posttrain.data.formats.fields import other_fields
from posttrain.data.records import Chat, Row, RowError, Text

TEXT_FIELDS = ("text", "content")
"""Fields that may hold a text, in order of preference."""
_CONVERSATIONS = ("messages", "conversations", "conversation", "messages_json")
# Texts that hold declarations and calls in words stay as they stand: no glaive, no toolace.
_READERS = ("messages_json", "kto", "dolci", "messages", "sharegpt")
_PAIRS = (("chosen", "rejected"), ("chosen_messages", "rejected_messages"))


def convert_text(row: Row, text_fields: Sequence[str] = TEXT_FIELDS) -> Text:
    """Convert a row.

    Args:
        row: The row.
        text_fields: Fields that may hold the text, in order of preference.

    Raises:
        RowError: No field holds text, and there is no conversation that can be read.
    """
    if field := find_text_field(row, text_fields):
        return Text(_checked(row[field]), other_fields(row, {field}))
    if name := find_conversation(row):
        chat = FORMATS[name].convert(row)
        assert isinstance(chat, Chat)
        return Text(join_turns(chat), chat.keys)
    raise RowError("no text", f"none of {', '.join(text_fields)} holds any")


def find_text_field(row: Row, text_fields: Sequence[str] = TEXT_FIELDS) -> str | None:
    """Return the first field that holds text."""
    return next(
        (name for name in text_fields if isinstance(row.get(name), str) and row[name].strip()),
        None,
    )


def find_conversation(row: Row) -> str | None:
    """Name the format in which a row's conversation is read; None where it has none.

    Raises:
        RowError: It has a better and a worse answer, which are no one text.
    """
    if any(all(row.get(name) for name in pair) for pair in _PAIRS):
        raise RowError("a pair of answers is no text", "pairs are for a `dpo` or `reward` stage")
    if not any(row.get(name) for name in _CONVERSATIONS):
        return None
    return next((name for name in _READERS if FORMATS[name].fits(row)), None)


def join_turns(chat: Chat) -> str:
    """Return the text of a conversation: a part a line, of tools, reasoning, content and calls.

    Raises:
        RowError: There is none, or it is not valid Unicode.
    """
    parts = [_dump(tool) for tool in chat.tools]
    for message in chat.messages:
        parts += [message.get("reasoning_content", ""), message["content"]]
        parts += [_dump(call["function"]) for call in message.get("tool_calls", ())]
    text = "\n".join(part.strip() for part in parts if part.strip())
    if not text:
        raise RowError("no text", "no turn holds any")
    return _checked(text)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("a text is not valid Unicode", error.reason) from None
    return text
