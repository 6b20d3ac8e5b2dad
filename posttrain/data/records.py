"""Canonical examples: what every input format becomes, and the checks that all of them pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Row = dict[str, Any]
Message = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Origin:
    """Where a row was read."""

    file: str
    line: int
    """Counted from 1; of a JSON array, the line on which the item starts."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Chat:
    """A conversation; its assistant turns can be trained on, its last one be the reference."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    reference: str | None = None
    """The final answer to grade against, where the format states one."""
    keys: dict[str, str] = field(default_factory=dict)
    """Other text fields of the row, for identification."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the last assistant turn; all, where the last turn is the user's."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            return self.messages[:-1]
        return self.messages

    @property
    def prompt_text(self) -> str:
        """The user's words of the prompt, for search and comparison."""
        return "\n".join(str(m["content"] or "") for m in self.prompt if m["role"] == "user")

    def canonical(self) -> str:
        """The conversation as JSON, the same for the same content whatever the source format."""
        return json.dumps([self.messages, self.tools], sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Preference:
    """A prompt with a better and a worse answer."""

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    tools: tuple[dict[str, Any], ...] = ()
    keys: dict[str, str] = field(default_factory=dict)
    """Other text fields of the row, for identification."""

    @property
    def prompt_text(self) -> str:
        """The user's words of the prompt, for search and comparison."""
        return "\n".join(str(m["content"] or "") for m in self.prompt if m["role"] == "user")

    def answered(self, answer: Message) -> Chat:
        """Return the conversation that ends with one of the answers."""
        return Chat((*self.prompt, answer), self.tools)

    def canonical(self) -> str:
        """The pair as JSON, the same for the same content whatever the source format."""
        parts = [self.prompt, self.chosen, self.rejected, self.tools]
        return json.dumps(parts, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Text:
    """A document to go on with."""

    text: str
    keys: dict[str, str] = field(default_factory=dict)
    """Other text fields of the row, for identification."""

    @property
    def prompt_text(self) -> str:
        """The document, for search and comparison."""
        return self.text

    def canonical(self) -> str:
        """The document itself."""
        return self.text


Content = Chat | Preference | Text
C_co = TypeVar("C_co", bound=Content, covariant=True)


@dataclass(frozen=True)
class Record(Generic[C_co]):
    """A converted row with its origin."""

    content: C_co
    origin: Origin


@dataclass(frozen=True)
class Reject:
    """A row that is not used, and why."""

    origin: Origin
    reason: str
    """Short and countable, for example ``no assistant turn``."""
    detail: str = ""
    """What is special to this row."""
    row: Any = None

    def to_json(self) -> dict[str, Any]:
        """Return the line of ``rejects.jsonl``."""
        return {
            "file": self.origin.file,
            "line": self.origin.line,
            "reason": self.reason,
            "detail": self.detail,
            "row": self.row,
        }


REPEATED, CONTAMINATED = "repeated", "in an evaluation set"
LABELLED_BAD = "the answer is labelled as bad"
USABLE = (REPEATED, CONTAMINATED)
"""Reasons that say nothing against the row itself."""
NOT_FAULTS = (*USABLE, LABELLED_BAD)
"""Reasons of rows that are sound; they do not count towards ``max_reject_fraction``."""


class RowError(ValueError):
    """A row cannot be used; becomes a Reject.

    Args:
        reason: Short and countable.
        detail: What is special to this row.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def describe_reject(reason: str, detail: str) -> str:
    """Write what is wrong with a row as one clause."""
    return f"{reason}: {detail}" if detail else reason


def check_chat(chat: Chat) -> None:
    """Check a conversation that shall be trained on.

    Raises:
        RowError: A role is unknown, a turn has neither text nor tool calls, a system turn is not
            the first, there is no user or no assistant turn, or a text is not valid Unicode.
    """
    roles = [message["role"] for message in chat.messages]
    for position, message in enumerate(chat.messages):
        role, content = message["role"], message.get("content")
        if role not in ROLES:
            raise RowError("unknown role", str(role))
        if role == "system" and position > 0:
            raise RowError("system turn is not the first", f"turn {position + 1}")
        if content is not None and not isinstance(content, str):
            raise RowError("content is not text", f"turn {position + 1}")
        if not (content or "").strip() and not message.get("tool_calls") and role != "tool":
            raise RowError("empty turn", f"turn {position + 1}, {role}")
    try:
        # Tools and calls seldom, and only then the whole, which takes ten times as long.
        nested = chat.tools or any("tool_calls" in message for message in chat.messages)
        texts = [
            str(m.get(k) or "") for m in chat.messages for k in ("content", "reasoning_content")
        ]
        (chat.canonical() if nested else "".join(texts)).encode()
    except UnicodeEncodeError as error:
        # Half of a surrogate pair, which JSON can write as an escape and no tokenizer can read.
        raise RowError("a text is not valid Unicode", error.reason) from None
    if "user" not in roles:
        raise RowError("no user turn")
    if "assistant" not in roles:
        raise RowError("no assistant turn")


def texts_in(value: Any) -> Iterator[str]:
    """Yield every string inside nested values, names of fields too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from texts_in(name)
            yield from texts_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_in(item)
