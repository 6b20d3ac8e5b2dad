"""OpenAI messages: ``messages`` = [{role, content}]; optional ``tools``, calls, ``reference``."""

from __future__ import annotations

from typing import Any

from posttrain.data.formats.fields import other_texts, parse_json, read_reference
from posttrain.data.records import Chat, Message, Row, RowError

# Fields that ask for something we do not do; leaving them out would train on the wrong tokens.
_REFUSED = ("function_call", "functions", "function_calls")
_WEIGHTS = ("weight", "loss_weight", "loss", "train")
_KEPT = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content")


def convert_messages(row: Row) -> Chat:
    """Convert a row; typed content blocks of text are joined.

    Raises:
        RowError: ``messages`` or ``tools`` has another shape, or a message asks for what is not
            supported: a loss weight of its own, function calls of the old kind.
    """
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RowError("no `messages`")
    tools = row.get("tools") or []
    if isinstance(tools, str):
        tools = parse_json(tools, "tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("`tools` is not a list of objects")
    return Chat(
        messages=tuple(convert_message(m, i + 1) for i, m in enumerate(messages)),
        tools=tuple(tools),
        reference=read_reference(row),
        keys=other_texts(row, ("messages", "tools", "reference")),
    )


def convert_message(message: Any, turn: int) -> Message:
    """Convert one message.

    Args:
        message: As in a request to OpenAI's API.
        turn: Its position from 1, for the reject.

    Raises:
        RowError: As ``convert_messages``.
    """
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RowError("a message is not {role, content}", f"turn {turn}")
    if unknown := [name for name in _REFUSED if message.get(name)]:
        raise RowError(f"`{unknown[0]}` of a message is not supported", f"turn {turn}")
    if message["role"] == "assistant":
        for name in _WEIGHTS:
            if message.get(name, 1) not in (1, None):
                raise RowError(f"`{name}` of a message is not supported", f"turn {turn}")
    kept = {name: message[name] for name in _KEPT if message.get(name) is not None}
    kept["content"] = _join_content(message.get("content"), turn)
    calls = kept.pop("tool_calls", [])
    if not isinstance(calls, list):
        raise RowError("`tool_calls` is not a list", f"turn {turn}")
    kept_calls = [_convert_call(call, turn) for call in calls]
    if kept_calls:
        kept["tool_calls"] = kept_calls
    return kept


def _join_content(content: Any, turn: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [_read_block(block) for block in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)
    raise RowError("content is not text", f"turn {turn}")


def _read_block(block: Any) -> Any:
    """Text of a typed block; LLaMA-Factory keeps it in ``value``."""
    if not isinstance(block, dict) or block.get("type", "text") != "text":
        return None
    return block.get("text", block.get("value"))


def _convert_call(call: Any, turn: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("a tool call has no function name", f"turn {turn}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = parse_json(arguments, f"turn {turn} arguments")
    if not isinstance(arguments, dict):
        raise RowError("tool call arguments are not an object", f"turn {turn}")
    # Some templates print the id, and refuse a call without one.
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {
        **identity,
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }
