"""Records -> rows of one format, from which the same record is read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from posttrain.data.formats import FORMATS
from posttrain.data.records import Chat, Content, Preference, Row, RowError


def write_messages(chat: Chat) -> Row:
    """Return the row ``{messages}``, with ``tools`` and ``reference`` where there are some."""
    tools = {"tools": list(chat.tools)} if chat.tools else {}
    reference = {"reference": chat.reference} if chat.reference is not None else {}
    return {"messages": list(chat.messages), **tools, **reference}


def write_messages_json(chat: Chat) -> Row:
    """Return the row ``{messages_json, tools_json}``, whose nested parts are JSON text."""
    row = {
        "messages_json": json.dumps(chat.messages, ensure_ascii=False),
        "tools_json": json.dumps(chat.tools, ensure_ascii=False),
    }
    return row if chat.reference is None else {**row, "reference": chat.reference}


def write_alpaca(chat: Chat) -> Row:
    """Return the row ``{instruction, input, output}``; ``system`` and ``history`` where needed.

    Raises:
        RowError: The conversation has what alpaca has no place for.
    """
    turns = list(chat.messages)
    system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
    if chat.tools or any(turn["role"] == "tool" or "tool_calls" in turn for turn in turns):
        raise RowError("alpaca has no place for tools")
    if any("reasoning_content" in turn for turn in turns):
        raise RowError("alpaca has no place for reasoning")
    if not turns or [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise RowError("alpaca needs turns of user and assistant by turns")
    texts = [turn["content"] for turn in turns]
    history = [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)]
    return {
        "instruction": texts[-2],
        "input": "",
        "output": texts[-1],
        **({"system": system} if system else {}),
        **({"history": history} if history else {}),
        **({"reference": chat.reference} if chat.reference is not None else {}),
    }


def write_preference(pair: Preference) -> Row:
    """Return the row ``{prompt, chosen, rejected}`` of lists of messages, with ``tools``."""
    return {
        "prompt": list(pair.prompt),
        "chosen": [pair.chosen],
        "rejected": [pair.rejected],
        **({"tools": list(pair.tools)} if pair.tools else {}),
    }


WRITERS: dict[str, tuple[str, Callable[[Any], Row]]] = {
    "messages": ("chat", write_messages),
    "messages_json": ("chat", write_messages_json),
    "alpaca": ("chat", write_alpaca),
    "preference": ("preference", write_preference),
}
"""Format -> the kind of record it is written from, and how."""


def write_row(content: Content, name: str) -> Row:
    """Write a record as a row of a format, with the row's other text fields.

    Args:
        content: A record's content, of the kind that the format is written from.
        name: One of ``WRITERS``.

    Raises:
        RowError: The format has no place for a part of it.
    """
    row = WRITERS[name][1](content)
    # A field that meant nothing before must not mean something now.
    taken = {*row, *FORMATS[name].fields, *FORMATS[name].optional}
    return {**{key: text for key, text in content.keys.items() if key not in taken}, **row}
