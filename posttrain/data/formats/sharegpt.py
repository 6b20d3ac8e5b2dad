"""ShareGPT: ``conversations`` = [{from, value}], optional ``system`` and ``tools`` (JSON text).

Roles go by many names. A ``function_call`` turn is JSON: one call or a list of them.
"""

from __future__ import annotations

from typing import Any

from posttrain.data.formats.calls import read_calls
from posttrain.data.formats.fields import other_texts, read_text
from posttrain.data.formats.messages import convert_message
from posttrain.data.formats.tools import read_tools
from posttrain.data.records import Chat, Message, Row, RowError

_NAMES = {
    "system": "system",
    "user": "human user prompter",
    "assistant": "gpt assistant chatgpt bing bard model bot",
    "call": "function_call tool_call",
    "tool": "observation tool tool_response function_response function environment",
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}
_CONTENTS = ("value", "content", "text")
_USED = ("conversations", "conversation", "system", "tools")


def convert_sharegpt(row: Row) -> Chat:
    """Convert a row.

    Raises:
        RowError: A turn has an unknown role or another shape, or a call cannot be read.
    """
    turns = row.get("conversations", row.get("conversation"))
    if not isinstance(turns, list) or not turns:
        raise RowError("no `conversations`")
    messages = [read_turn(turn, number) for number, turn in enumerate(turns, start=1)]
    if system := read_text(row, "system", required=False):
        if messages[0]["role"] == "system":
            raise RowError("two system prompts", "`system`, and a system turn")
        messages.insert(0, {"role": "system", "content": system})
    return Chat(tuple(messages), read_tools(row.get("tools")), keys=other_texts(row, _USED))


def read_turn(turn: Any, number: int) -> Message:
    """Convert one turn.

    Args:
        turn: ``{from, value}``, or with the keys ``role`` and ``content`` or ``text``.
        number: Its position from 1, for the reject.

    Raises:
        RowError: The role is unknown, or the shape is another.
    """
    what = f"turn {number}"
    name = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
    if not isinstance(name, str):
        raise RowError("a turn is not {from, value}", what)
    role = _ROLES.get(name.lower())
    if role is None:
        raise RowError("unknown role", f"{what}: {name}")
    content = next((turn[key] for key in _CONTENTS if turn.get(key) is not None), "")
    message = {key: value for key, value in turn.items() if key not in ("from", *_CONTENTS)}
    if role == "call":
        message["tool_calls"] = read_calls(content, what)
        role, content = "assistant", ""
    return convert_message({**message, "role": role, "content": content}, number)
