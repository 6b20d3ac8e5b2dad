"""Records -> rows of one format, from which the same record is read again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.data.formats.catalog import FORMATS
from posttrain.data.formats.text import join_turns
from posttrain.data.formats.write_chats import (
    write_alpaca,
    write_chatml,
    write_dolci,
    write_dolly,
    write_gsm8k,
    write_math,
    write_messages,
    write_messages_json,
    write_prompt,
    write_prompt_completion,
    write_question,
    write_sharegpt,
    write_xlam,
)
from posttrain.data.formats.write_pairs import (
    write_alpaca_pair,
    write_messages_pair,
    write_pair,
    write_sharegpt_pair,
    write_stack_exchange,
    write_transcripts,
)
from posttrain.data.records import Chat, Content, Message, Preference, Row, RowError, Text

# What a conversation may carry besides its texts and calls: feature -> whether a message has it.
_FEATURES: dict[str, Callable[[Message], bool]] = {
    "reasoning": lambda message: "reasoning_content" in message,
    # A weight that changes nothing need not be written.
    "loss weights": lambda message: (
        message.get("loss_weight", message["role"] == "assistant")
        != (message["role"] == "assistant")
    ),
    "names": lambda message: "name" in message,
    "call ids": lambda message: (
        "tool_call_id" in message or any("id" in call for call in message.get("tool_calls", ()))
    ),
}
_KEYS = {
    "reasoning": "reasoning_content",
    "loss weights": "loss_weight",
    "names": "name",
    "call ids": "tool_call_id",
}
_ALL = frozenset((*_FEATURES, "tools", "reference"))


@dataclass(frozen=True)
class Writer:
    """How records are written in a format."""

    kind: str
    """Which records: ``chat``, ``preference`` or ``text``."""
    write: Callable[[Any], Row]
    """Writes what it has a place for; raises RowError where the turns themselves do not fit."""
    holds: frozenset[str] = frozenset()
    """Which features it has a place for."""


def _write_text(content: Text | Chat) -> Row:
    return {"text": content.text if isinstance(content, Text) else join_turns(content)}


_REFERENCE = frozenset({"reference"})
_TOOLS = frozenset({"tools"})
WRITERS: dict[str, Writer] = {
    "messages": Writer("chat", write_messages, _ALL),
    "messages_json": Writer("chat", write_messages_json, _ALL),
    "alpaca": Writer("chat", write_alpaca, _REFERENCE),
    "sharegpt": Writer("chat", write_sharegpt, _TOOLS | _REFERENCE | {"loss weights"}),
    "prompt_completion": Writer("chat", write_prompt_completion, _ALL),
    "prompt": Writer("chat", write_prompt, _ALL),
    "query_response": Writer("chat", write_question("query", "response"), _REFERENCE),
    "question_answer": Writer("chat", write_question("question", "answer"), _REFERENCE),
    "input_output": Writer("chat", write_question("input", "output"), _REFERENCE),
    "prompt_response": Writer("chat", write_question("prompt", "response"), _REFERENCE),
    "dolly": Writer("chat", write_dolly),
    "gsm8k": Writer("chat", write_gsm8k, _REFERENCE),
    "math": Writer("chat", write_math, _REFERENCE),
    "chatml": Writer("chat", write_chatml),
    "dolci": Writer("chat", write_dolci, _TOOLS),
    "xlam": Writer("chat", write_xlam, _TOOLS),
    "preference": Writer("preference", write_pair, _ALL),
    "messages_preference": Writer("preference", write_messages_pair, _ALL),
    "sharegpt_preference": Writer("preference", write_sharegpt_pair, _TOOLS),
    "alpaca_preference": Writer("preference", write_alpaca_pair),
    "stack_exchange": Writer("preference", write_stack_exchange),
    "hh_rlhf": Writer("preference", write_transcripts),
    "text": Writer("text", _write_text, frozenset({"reasoning", "tools"})),
}
"""Formats that can be written."""


def find_unheld(content: Content, name: str) -> list[str]:
    """Name what a record carries and a format has no place for.

    Args:
        content: Of the kind that the format is written from; of ``text``, a conversation too.
        name: One of ``WRITERS``.

    Returns:
        Features such as ``reasoning`` and ``loss weights``, each once.
    """
    if isinstance(content, Text):
        return []
    messages = _list_messages(content)
    found = [feature for feature, has in _FEATURES.items() if any(map(has, messages))]
    calling = any(m["role"] == "tool" or "tool_calls" in m for m in messages)
    if content.tools or calling:
        found.append("tools")
    if isinstance(content, Chat) and content.reference is not None:
        found.append("reference")
    return [feature for feature in found if feature not in WRITERS[name].holds]


def drop_features(content: Content, features: Sequence[str], name: str) -> Content:
    """Return a record without some features.

    Args:
        content: The record.
        features: As ``find_unheld`` names them.
        name: The format that has no place for them, for the reject.

    Raises:
        RowError: Without it, the record would be another: tools that are called.
    """
    if isinstance(content, Text) or not features:
        return content
    messages = _list_messages(content)
    if "tools" in features and any(m["role"] == "tool" or "tool_calls" in m for m in messages):
        raise RowError(f"{name} has no place for tools", "and they are called")
    keys = {_KEYS[feature] for feature in features if feature in _KEYS}
    kept = [_drop_keys(message, keys) for message in messages]
    tools = () if "tools" in features else content.tools
    if isinstance(content, Preference):
        *prompt, chosen, rejected = kept
        if chosen == rejected:
            raise RowError(f"{name} has no place for {features[0]}", "all in which answers differ")
        return replace(content, prompt=tuple(prompt), chosen=chosen, rejected=rejected, tools=tools)
    reference = None if "reference" in features else content.reference
    return replace(content, messages=tuple(kept), tools=tools, reference=reference)


def _drop_keys(message: Message, keys: set[str]) -> Message:
    kept = {key: value for key, value in message.items() if key not in keys}
    if "tool_call_id" in keys and "tool_calls" in kept:
        kept["tool_calls"] = [
            {key: value for key, value in call.items() if key != "id"}
            for call in kept["tool_calls"]
        ]
    return kept


def write_row(content: Content, name: str, others: Mapping[str, Any] | None = None) -> Row:
    """Write a record as a row of a format, and hold it to being read as the same record.

    Args:
        content: A record's content, of the kind that the format is written from.
        name: One of ``WRITERS``.
        others: Further fields of the row; the record's keys where absent.

    Returns:
        The row. Further fields that would mean something in this format are left out.

    Raises:
        RowError: The format has no place for a part of it, or would read it otherwise.
    """
    if unheld := find_unheld(content, name):
        raise RowError(f"{name} has no place for {unheld[0]}")
    if "loss weights" not in WRITERS[name].holds:
        content = drop_features(content, ["loss weights"], name)
    row = WRITERS[name].write(content)
    _check_same(content, row, name)
    others = content.keys if others is None else others
    taken = list_taken(row, name)
    return {**row, **{key: value for key, value in others.items() if key not in taken}}


def list_taken(row: Row, name: str) -> set[str]:
    """List the fields that mean something in a format: what meant nothing must not enter there."""
    known = FORMATS.get(name)
    return {*row, *(known.fields if known else ()), *(known.optional if known else ())}


def _check_same(content: Content, row: Row, name: str) -> None:
    if name not in FORMATS:
        return
    read = FORMATS[name].convert(row)
    assert not isinstance(read, Text)
    assert not isinstance(content, Text)
    same = _list_messages(content) == _list_messages(read) and content.tools == read.tools
    if isinstance(content, Chat) and isinstance(read, Chat) and content.reference is not None:
        same = same and content.reference == read.reference
    if not same:
        raise RowError(f"{name} would be read otherwise", "its text has a meaning there")


def _list_messages(content: Chat | Preference) -> tuple[Message, ...]:
    if isinstance(content, Chat):
        return content.messages
    return (*content.prompt, content.chosen, content.rejected)
