"""Conversations rendered as ChatML text -> messages, where the text can mean one thing only.

Tool calls and results inside such text are words of the template, not of the conversation; another
model's template would write them otherwise, so rows with them are refused.
"""

from __future__ import annotations

import re

from posttrain.data.formats.fields import other_fields, read_text
from posttrain.data.records import Chat, Message, Row, RowError

START, END = "<|im_start|>", "<|im_end|>"
_USED = frozenset(("text",))
_TURN = re.compile(
    r"<\|im_start\|>(system|user|assistant)\n((?:(?!<\|im_(?:start|end)\|>).)*)<\|im_end\|>\s*",
    re.DOTALL,
)
_TOOL_WORDS = ("<tool_call>", "<tool_response>", "<tools>")
# What Qwen3's template writes where there was no thinking.
_EMPTY_THINKING = re.compile(r"\s*<think>\s*</think>\s*")
_GENERATION = re.compile(r"<\|im_start\|>assistant\n(?:\s*<think>\s*</think>\s*)?")


def convert_chatml(row: Row) -> Chat:
    """Convert ``{text}``.

    Raises:
        RowError: The text is not wholly made of turns, or holds tool calls.
    """
    return Chat(parse_chatml(read_text(row, "text")), keys=other_fields(row, _USED))


def parse_chatml(text: str) -> tuple[Message, ...]:
    """Take rendered text apart into messages.

    Raises:
        RowError: Something stands outside of the turns, a turn does not end, or a turn holds tool
            calls.
    """
    messages: list[Message] = []
    position = len(text) - len(text.lstrip())
    while position < len(text):
        turn = _TURN.match(text, position)
        if not turn:
            found = text[position : position + 40]
            raise RowError("not ChatML", f"character {position}: {found!r}")
        role, content = turn.groups()
        if word := next((word for word in _TOOL_WORDS if word in content), None):
            raise RowError("tool calls inside rendered text", word)
        if role == "assistant":
            content = strip_answer(content)
        messages.append({"role": role, "content": content})
        position = turn.end()
    if not messages:
        raise RowError("not ChatML", "no turns")
    return tuple(messages)


def parse_prompt(text: str) -> tuple[Message, ...]:
    """Take apart a prompt that was rendered up to the assistant's header.

    Raises:
        RowError: As ``parse_chatml``, or there is no such header at the end.
    """
    start = text.rfind(START)
    if start < 0 or not _GENERATION.fullmatch(text, start):
        raise RowError("the rendered prompt does not end with the assistant's header")
    return parse_chatml(text[:start])


def strip_answer(text: str) -> str:
    """Take off what a template wrote around an answer: empty thinking, and the end of the turn."""
    found = _EMPTY_THINKING.match(text)
    text = text[found.end() :] if found else text
    return text.rstrip().removesuffix(END) if text.rstrip().endswith(END) else text
