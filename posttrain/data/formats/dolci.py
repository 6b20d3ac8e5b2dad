"""Dolci-Instruct-SFT, tool use: functions and calls are strings on the messages themselves.

``functions`` is a JSON array as text, ``function_calls`` are Pythonic, results come in turns of the
role ``environment`` without ids. The turn that calls has no content, and is kept.
"""

from __future__ import annotations

from typing import Any

from posttrain.data.formats.calls import read_calls
from posttrain.data.formats.fields import describe, other_fields
from posttrain.data.formats.tools import check_calls, merge_tools, read_tools
from posttrain.data.records import Chat, Message, Row, RowError

_USED = frozenset(("messages",))
_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "environment": "tool"}


def convert_dolci(row: Row) -> Chat:
    """Convert a row.

    Raises:
        RowError: A turn, a declaration or a call cannot be read; the row does not end with an
            assistant turn; a call names an undeclared function or lacks a required argument; the
            results do not match the calls before them.
    """
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        raise RowError("no `messages`")
    if not all(isinstance(turn, dict) for turn in turns):
        raise RowError("a message is not {role, content}")
    tools = merge_tools(tool for turn in turns for tool in read_tools(turn.get("functions")))
    messages = [_convert_turn(turn, number) for number, turn in enumerate(turns, start=1)]
    if not any(message["role"] == "user" for message in messages):
        raise RowError("no user turn")
    if messages[-1]["role"] != "assistant":
        raise RowError("no final assistant turn", f"the last turn is {messages[-1]['role']}")
    if not messages[-1]["content"].strip() and "tool_calls" not in messages[-1]:
        raise RowError("no final assistant turn", "the last one has neither text nor a call")
    check_calls(messages, tools)
    _check_results(messages)
    return Chat(tuple(messages), tools, keys=other_fields(row, _USED))


def _convert_turn(turn: dict[str, Any], number: int) -> Message:
    what = f"turn {number}"
    role, content, calls = turn.get("role"), turn.get("content"), turn.get("function_calls")
    if not isinstance(role, str) or role not in _ROLES:
        raise RowError("unknown role", f"{what}: {describe(role)}")
    if content is not None and not isinstance(content, str):
        raise RowError("content is not text", what)
    calls = calls.strip() if isinstance(calls, str) else calls
    if calls and role != "assistant":
        raise RowError("a call outside of an assistant turn", f"{what}: {describe(role)}")
    if content is None and not calls:
        raise RowError("null content without a call", f"{what}: {role}")
    message: Message = {"role": _ROLES[role], "content": content or ""}
    if calls:
        message["tool_calls"] = read_calls(calls, what)
    return message


def _check_results(messages: list[Message]) -> None:
    """Match results with calls by position: one result for all calls of a run, or one each."""
    calls = results = 0
    for turn, message in enumerate([*messages, {"role": "user"}], start=1):
        if message["role"] == "tool":
            results += 1
            if results > calls:
                detail = f"turn {turn}: result {results} of {calls} calls"
                raise RowError("a result without a call", detail)
            continue
        if results:
            if results not in (1, calls):
                detail = f"before turn {turn}: {results} results of {calls} calls"
                raise RowError("results do not match the calls", detail)
            calls = results = 0
        # Calls may be spread over assistant turns in a row; the user's turn ends the wait.
        calls = 0 if message["role"] == "user" else calls + len(message.get("tool_calls", ()))
