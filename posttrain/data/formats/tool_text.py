"""Tools told in words: Glaive's ``<functioncall>`` and ToolACE's ``[name(argument="x")]``.

The functions stand as JSON in the text of the system prompt, and the calls in the text of the
answers. Both become ``tools`` and ``tool_calls``, which each model's own template writes in its own
way. The words around the functions say how to write a call in the data set's way; they are left
out, or the model would be told one notation and taught another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from posttrain.data.formats.calls import Call, read_calls
from posttrain.data.formats.fields import TOO_DEEP, other_fields, parse_json, read_text
from posttrain.data.formats.messages import convert_messages
from posttrain.data.formats.sharegpt import convert_sharegpt
from posttrain.data.formats.tools import check_calls, merge_tools, read_tools
from posttrain.data.records import Chat, Message, Row, RowError

CALL_TAG = "<functioncall>"
_END = "<|endoftext|>"
_DECODER = json.JSONDecoder()
_SPEAKER = re.compile(r"(?:^|\n)\s*(USER|ASSISTANT|FUNCTION RESPONSE):")
_SPEAKERS = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
# Glaive quotes its arguments with single quotes, inside of JSON.
_QUOTED = re.compile(r"""(.*"arguments":\s*)'(.*)'(\s*\}\s*)""", re.DOTALL)
_BRACKETED = re.compile(r"\[\s*[^\s\[\](){}'\",=][^\[\](){}'\",=\n]*\(.*\)\s*\]", re.DOTALL)
# A line of a system prompt that says how functions are called, not what the model is.
_HOW_TO_CALL = re.compile(r"\b(?:functions?|func\d|tools?|param\w*|NO other text)\b", re.IGNORECASE)
_GLAIVE_FIELDS = frozenset(("system", "chat"))


def convert_glaive(row: Row) -> Chat:
    """Convert ``{system, chat}``, a transcript; or a conversation whose answers hold such calls.

    Raises:
        RowError: The transcript has another shape, a declaration or a call cannot be read, or a
            call does not fit its declaration.
    """
    if "chat" in row:
        chat = Chat(_read_transcript(row), keys=other_fields(row, _GLAIVE_FIELDS))
    else:
        chat = convert_messages(row) if "messages" in row else convert_sharegpt(row)
    return _lift(chat, _read_tagged)


def convert_toolace(row: Row) -> Chat:
    """Convert a conversation whose system prompt lists functions and whose answers are calls.

    Raises:
        RowError: As ``convert_glaive``.
    """
    chat = convert_messages(row) if "messages" in row else convert_sharegpt(row)
    return _lift(chat, _read_bracketed)


def shows_glaive(row: Row) -> bool:
    """Whether an answer of a row calls with Glaive's tag, or the row is its transcript."""
    if "chat" in row:
        chat, system = row["chat"], row.get("system")
        return isinstance(chat, str) and isinstance(system, str) and "ASSISTANT:" in chat
    return any(CALL_TAG in text for text in _texts(row))


def shows_toolace(row: Row) -> bool:
    """Whether a row lists functions in its system prompt and an answer calls in brackets."""
    system = row.get("system")
    texts = _texts(row)
    listed = system if isinstance(system, str) else texts[0] if texts else ""
    if row.get("tools") or "[{" not in listed or '"name"' not in listed:
        return False
    return any(_BRACKETED.fullmatch(text.strip()) for text in texts)


def _texts(row: Row) -> list[str]:
    turns = row.get("messages", row.get("conversations"))
    found = []
    for turn in turns if isinstance(turns, list) else ():
        text = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
        if isinstance(text, str):
            found.append(text)
    return found


def _read_transcript(row: Row) -> tuple[Message, ...]:
    system = read_text(row, "system", required=False).strip().removeprefix("SYSTEM:").strip()
    head, *parts = _SPEAKER.split(read_text(row, "chat"))
    if head.strip() or not parts:
        raise RowError("not a transcript", "`chat` does not start with USER: or ASSISTANT:")
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        content = said.strip().removesuffix(_END).strip()
        messages.append({"role": _SPEAKERS[speaker], "content": content})
    return tuple(messages)


def _lift(chat: Chat, read: Callable[[str, str], tuple[str, list[Call]]]) -> Chat:
    """Turn functions and calls that stand in texts into declared ones, and check the calls."""
    messages = list(chat.messages)
    tools = chat.tools
    if messages[0]["role"] == "system" and not tools:
        rest, tools = find_functions(messages[0]["content"])
        messages[:1] = [{**messages[0], "content": rest}] if rest else []
    for position, message in enumerate(messages):
        if message["role"] == "assistant" and "tool_calls" not in message:
            text, calls = read(message["content"], f"turn {position + 1}")
            if calls:
                messages[position] = {**message, "content": text, "tool_calls": calls}
    if not messages:
        raise RowError("no user turn", "only a system prompt")
    check_calls(messages, tools)
    return replace(chat, messages=tuple(messages), tools=tools)


def find_functions(text: str) -> tuple[str, tuple[dict[str, Any], ...]]:
    """Take declared functions out of a text.

    Args:
        text: A system prompt, with functions as JSON objects, one after the other, or a list.

    Returns:
        The rest without the lines that say how to call, and the functions; the text as it stands
        where it declares none.

    Raises:
        RowError: A declaration cannot be read, or two different functions share a name.
    """
    declared: list[dict[str, Any]] = []
    rest, position = "", 0
    while (start := _find_json(text, position)) >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except ValueError:
            value, end = None, start + 1
        except RecursionError:
            raise RowError(TOO_DEEP, "system prompt") from None
        items = value if isinstance(value, list) else [value]
        if items and all(isinstance(i, dict) and ("name" in i or "function" in i) for i in items):
            declared.extend(items)
            rest += text[position:start]
        else:
            rest += text[position:end]
        position = end
    if not declared:
        return text, ()
    tools = merge_tools(tool for item in declared for tool in read_tools([item]))
    lines = f"{rest}{text[position:]}".split("\n")
    kept = [line for line in lines if not _HOW_TO_CALL.search(line) and line.strip(" .")]
    return "\n".join(kept).strip(), tools


def _find_json(text: str, start: int) -> int:
    """Place of the next bracket that an object or a list of objects starts with, or -1."""
    places = [place for sign in ("[{", "{") if (place := text.find(sign, start)) >= 0]
    return min(places, default=-1)


def _read_tagged(text: str, what: str) -> tuple[str, list[Call]]:
    said, tag, called = text.replace(_END, "").partition(CALL_TAG)
    if not tag:
        return text, []
    calls = [_read_quoted(part.strip(), what) for part in called.split(CALL_TAG)]
    return said.strip(), [call for found in calls for call in found]


def _read_quoted(text: str, what: str) -> list[Call]:
    if found := _QUOTED.fullmatch(text):
        start, quoted, end = found.groups()
        # The value becomes JSON text inside of JSON, as it was meant.
        text = f"{start}{json.dumps(quoted.replace(chr(92) + chr(39), chr(39)))}{end}"
    return read_calls(parse_json(text, what), what)


def _read_bracketed(text: str, what: str) -> tuple[str, list[Call]]:
    stripped = text.strip()
    if not _BRACKETED.fullmatch(stripped):
        return text, []
    return "", read_calls(stripped, what, spaces=True)
