"""Messages: ``messages`` = [{role, content}]; optional ``system``, ``tools``, ``reference``.

One reader for every way of writing a turn: OpenAI's (calls of the new and the old kind, typed
blocks, ``developer``), ShareGPT's ``{from, value}``, LLaMA-Factory's v1 (``loss_weight``, blocks of
reasoning and calls), and the roles by all their names.
"""

from __future__ import annotations

import json
from typing import Any

from posttrain.data.formats.calls import read_call, read_calls
from posttrain.data.formats.fields import (
    describe,
    other_fields,
    read_reference,
    read_text,
    scalar_text,
)
from posttrain.data.formats.tools import read_declared
from posttrain.data.records import Chat, Message, Row, RowError

_NAMES = {
    "system": "system developer",
    "user": "user human prompter",
    "assistant": "assistant gpt chatgpt bing bard model bot",
    "call": "function_call tool_call",
    "tool": "tool observation function tool_response function_response tool_result environment "
    "ipython",
}
ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}
"""Role as data sets name it -> ours, or ``call``: an assistant turn whose content is a call."""
_CONTENTS = ("content", "value", "text")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_WEIGHTS = ("loss_weight", "weight", "loss", "train", "training")
_MOST = 1e6  # Of what is meant as a weight; a longer number would be infinite as a float.
# What Dolci keeps on a message; here it would be left out without a word.
_REFUSED = ("functions", "function_calls", "train_detail")
_USED = frozenset(("messages", "system", "tools", "functions", "reference"))
TURN_KEYS = frozenset(
    ("role", "from", *_CONTENTS, *_REASONING, *_WEIGHTS, *_REFUSED, "tool_calls", "function_call",
     "tool_call_id", "name")
)  # fmt: skip
"""Keys of a turn whose meaning is known."""


def convert_messages(row: Row) -> Chat:
    """Convert a row; typed content blocks of text are joined.

    Raises:
        RowError: ``messages`` or ``tools`` has another shape, a role is unknown, or a message asks
            for what is not supported.
    """
    return Chat(
        read_turns(row, "messages"),
        read_row_tools(row),
        read_reference(row),
        other_fields(row, _USED),
    )


def read_turns(row: Row, name: str) -> tuple[Message, ...]:
    """Read a row's turns, behind its ``system`` prompt where it has one.

    Args:
        row: The row.
        name: The field of the turns.

    Raises:
        RowError: As ``convert_messages``, or there are two system prompts.
    """
    turns = row.get(name)
    if not isinstance(turns, list) or not turns:
        raise RowError(f"no `{name}`")
    messages = tuple([convert_message(turn, i) for i, turn in enumerate(turns, start=1)])
    if not row.get("system"):
        return messages
    system = read_text(row, "system", required=False)
    if messages[0]["role"] != "system":
        return ({"role": "system", "content": system}, *messages)
    if messages[0]["content"] != system:
        raise RowError("two system prompts", "`system`, and a system turn")
    return messages


def read_row_tools(row: Row) -> tuple[dict[str, Any], ...]:
    """Read the functions that a row declares in ``tools``, or ``functions`` of the old kind.

    Raises:
        RowError: They are no list of declarations.
    """
    declared = row.get("tools") or row.get("functions")
    return read_declared(declared) if declared else ()


def convert_message(message: Any, turn: int) -> Message:
    """Convert one message.

    Args:
        message: In any of the ways told above.
        turn: Its position from 1, for the reject.

    Raises:
        RowError: As ``convert_messages``.
    """
    if type(message) is dict and len(message) == 2:
        # The usual turn has a role and a text and nothing else.
        role, content = message.get("role"), message.get("content")
        if role is None:
            role, content = message.get("from"), message.get("value")
        if type(content) is str and type(role) is str:
            known = ROLES.get(role)
            if known is not None and known != "call":
                return {"role": known, "content": content}
    if not isinstance(message, dict):
        raise RowError("a message is not {role, content}", f"turn {turn}")
    return _convert_other(message, f"turn {turn}")


def _convert_other(message: Message, what: str) -> Message:
    """Convert a message with more to it than a role and a text."""
    name = message.get("role")
    name = message.get("from") if name is None else name
    if not isinstance(name, str):
        raise RowError("a message is not {role, content}", what)
    role = ROLES.get(name) or ROLES.get(name.strip().lower())
    if role is None:
        raise RowError("unknown role", f"{what}: {name:.40}")
    for refused in _REFUSED:
        if message.get(refused):
            raise RowError(f"`{refused}` of a message is not supported", what)
    content = next((message[key] for key in _CONTENTS if message.get(key) is not None), None)
    thoughts = [message[key] for key in _REASONING if message.get(key)]
    calls: list[Any] = []
    if role == "call":
        role, calls, content = "assistant", read_calls(content or "", what), None
    text = _read_content(content, role, thoughts, calls, what)
    kept: Message = {"role": role, "content": text}
    if thoughts:
        kept["reasoning_content"] = _read_reasoning(role, thoughts, what)
    calls = [*calls, *_read_calls(message, what)]
    if calls:
        if role != "assistant":
            raise RowError("a call outside of an assistant turn", what)
        kept["tool_calls"] = calls
    for key in ("tool_call_id", "name"):
        if message.get(key) is not None:
            kept[key] = _read_name(message[key], key, what)
    if (weight := _read_weight(message, what)) is not None:
        kept["loss_weight"] = weight
    return kept


def _read_content(content: Any, role: str, thoughts: list[Any], calls: list[Any], what: str) -> str:
    """Join content; blocks of reasoning and of calls go where they belong."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join([_read_block(block, thoughts, calls, what) for block in content])
    if isinstance(content, dict) and role == "tool":
        return _write_result(content, what)
    raise RowError("content is not text", what)


def _read_block(block: Any, thoughts: list[Any], calls: list[Any], what: str) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type", "text") if isinstance(block, dict) else type(block).__name__
    if kind in ("text", "input_text", "output_text"):
        # LLaMA-Factory keeps it in `value`.
        text = block.get("text", block.get("value"))
        if isinstance(text, str):
            return text
    elif kind in ("thinking", "reasoning"):
        thoughts.append(block.get(kind, block.get("text", block.get("value"))))
        return ""
    elif kind == "tool_use":
        calls.append(read_call({**block, "arguments": block.get("input")}, what))
        return ""
    elif kind == "tool_call":
        calls.extend(read_calls(block.get("value", block), what))
        return ""
    raise RowError("content is not text", f"{what}: {describe(kind)}")


def _write_result(content: dict[str, Any], what: str) -> str:
    """A tool's result that is an object is shown to the model as JSON."""
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise RowError("content is not text", f"{what}: an object that is no JSON") from None


def _read_reasoning(role: str, thoughts: list[Any], what: str) -> str:
    if role != "assistant":
        raise RowError("reasoning outside of an assistant turn", what)
    if not all(isinstance(text, str) for text in thoughts):
        raise RowError("reasoning is not text", what)
    # The same thoughts under two names are written once.
    return "".join(dict.fromkeys(thoughts))


def _read_calls(message: Message, what: str) -> list[dict[str, Any]]:
    calls, old = message.get("tool_calls"), message.get("function_call")
    if calls and not isinstance(calls, list):
        raise RowError("`tool_calls` is not a list", what)
    if calls and old:
        raise RowError("`tool_calls` and `function_call` in one message", what)
    return [read_call(call, what) for call in calls or ([old] if old else ())]


def _read_name(value: Any, key: str, what: str) -> str:
    text = scalar_text(value)
    if not text:
        raise RowError(f"`{key}` of a message is not text", what)
    return text


def _read_weight(message: Message, what: str) -> float | None:
    """Return how much a turn is learned where the row says so; true is 1, false 0."""
    found = None
    for name in _WEIGHTS:
        value = message.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float):
            raise RowError("a loss weight is not a number", f"{what}: `{name}`")
        if not 0 <= value <= _MOST:
            raise RowError("a loss weight is negative or not finite", f"{what}: `{name}`")
        if found is not None and found != value:
            raise RowError("two loss weights of one message differ", f"{what}: `{name}`")
        found = float(value)
    return found
