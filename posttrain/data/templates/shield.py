"""Text that looks like a special token stays text.

A conversation may speak of ``<|im_end|>``. Inside rendered text such a word gets a code point that
Unicode keeps out of all text behind its first character, so that nobody takes it for the token;
whoever encodes the text takes the code point out of it again, after the special tokens are found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from posttrain.data.records import Chat, RowError, texts_in

# Code points that Unicode keeps out of all text for such uses. The first two mark contents.
OPEN, CLOSE, SHIELD = "\ufdd0", "\ufdd1", "\ufdd2"
_OURS = (OPEN, CLOSE, SHIELD)
_NEVER = "(?!)"
_MANY = 4


def unshield(text: str) -> str:
    """Give back the text as its author wrote it."""
    return text.replace(SHIELD, "") if SHIELD in text else text


class Shield:
    """Shields texts from a tokenizer's special tokens.

    Args:
        tokens: The special tokens.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        # Longest first: one special token may start another.
        self.tokens = tuple(sorted(set(tokens) - {""}, key=lambda token: (-len(token), token)))
        self.pattern = re.compile("|".join(map(re.escape, self.tokens)) or _NEVER)
        starts = sorted({token[:2] for token in self.tokens})
        # A few plain searches are ten times as fast as the pattern; most texts hold no start.
        self._starts = tuple(starts) if len(starts) <= _MANY else None
        # Written by ``repr``, a text holds them still.
        self._shown = all(s.isprintable() and not set(s) & set("'\"\\") for s in starts)

    @classmethod
    def of(cls, tokenizer: Any) -> Shield:
        """Shield texts from a tokenizer's special tokens."""
        special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        return cls({*special, *tokenizer.all_special_tokens})

    def is_touched(self, text: str) -> bool:
        """Whether a text must be shielded, or holds a code point of ours."""
        if not text.isascii():
            for mark in _OURS:
                if mark in text:
                    return True
        return self.holds_token(text)

    def _is_inside(self, value: Any) -> bool:
        """Whether nested values hold a text to be shielded."""
        if self._starts is not None and self._shown:
            written = repr(value)
            if "\\ufdd" not in written and not any(start in written for start in self._starts):
                return False
        return any(map(self.is_touched, texts_in(value)))

    def holds_token(self, text: str) -> bool:
        """Whether a special token would be seen in a text."""
        if self._starts is not None:
            for start in self._starts:
                if start in text:
                    return self.pattern.search(text) is not None
            return False
        return self.pattern.search(text) is not None

    def shield_chat(self, chat: Chat) -> Chat:
        """Shield every text of a conversation and of its tools.

        Returns:
            The same object where nothing had to be done.

        Raises:
            RowError: A text holds one of our code points, or a special token of one character.
        """
        messages = self.shield_messages(chat.messages)
        tools = self.shield_tools(chat.tools)
        if messages is chat.messages and tools is chat.tools:
            return chat
        return replace(chat, messages=messages, tools=tools)

    def shield_messages(self, messages: Any) -> Any:
        """Shield every text of messages but their roles."""
        for message in messages:
            for name, value in message.items():
                if type(value) is str:
                    touched = name != "role" and self.is_touched(value)
                else:
                    touched = value is not None and self._is_inside(value)
                if touched:
                    return tuple(map(self._shield_message, messages, range(1, len(messages) + 1)))
        return messages

    def shield_tools(self, tools: Any) -> Any:
        """Shield every text of tool declarations."""
        if not tools or not self._is_inside(tools):
            return tools
        return tuple(self._shield(tool, "tools") for tool in tools)

    def _shield_message(self, message: dict[str, Any], turn: int) -> dict[str, Any]:
        return {
            name: value if name == "role" else self._shield(value, f"turn {turn}")
            for name, value in message.items()
        }

    def _shield(self, value: Any, place: str) -> Any:
        if isinstance(value, str):
            return self.shield_text(value, place)
        if isinstance(value, dict):
            return {self._shield(k, place): self._shield(v, place) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._shield(item, place) for item in value]
        return value

    def shield_text(self, text: str, place: str) -> str:
        """Shield one text.

        Args:
            text: Any.
            place: Says where it stands, for the error.

        Raises:
            RowError: As of `shield_chat`.
        """
        if any(mark in text for mark in _OURS):
            raise RowError("a text holds a noncharacter", f"{place}: one of U+FDD0 to U+FDD2")
        # Again until none is left: breaking one token may leave another that overlaps it.
        while found := self.pattern.search(text):
            if len(found.group()) == 1:
                raise RowError("a text holds a special token", f"{place}: {found.group()}")
            text = self.pattern.sub(_break, text)
        return text


def _break(found: re.Match[str]) -> str:
    token = found.group()
    return f"{token[0]}{SHIELD}{token[1:]}"
