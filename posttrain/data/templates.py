"""Render a conversation and say which characters are trained, by construction.

The template is never asked which text is the assistant's, and the text is never searched for it.
Instead each assistant turn is rendered with two private-use characters around its content; where
they come out is where the content is. Taking them out again must give the plain render, or the
template rewrites contents and the row is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data.records import Chat, Message, RowError
from posttrain.errors import ConfigError

# Two characters that Unicode reserves for private agreements; tokenizers never see them.
_OPEN, _CLOSE = "\ue0b0", "\ue0b1"


@dataclass(frozen=True)
class Piece:
    """A stretch of rendered text, wholly trained or wholly not."""

    text: str
    trained: bool


class ChatRenderer:
    """Renders conversations with a tokenizer's own template.

    Args:
        tokenizer: A transformers tokenizer.

    Raises:
        ConfigError: The tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                f"the tokenizer {tokenizer.name_or_path} has no chat template",
                hint="set model.chat_template to a Jinja file",
            )
        self.tokenizer = tokenizer
        # Longest first: one special token may start another.
        self._special = sorted(
            (t.content for t in tokenizer.added_tokens_decoder.values() if t.special),
            key=len,
            reverse=True,
        )

    def render(self, messages: Sequence[Message], tools: Any = None, *, prompt: bool) -> str:
        """Render messages as text.

        Args:
            messages: The conversation.
            tools: Tool declarations, or nothing.
            prompt: Whether to end with the header of an assistant turn to be written.

        Returns:
            The text.

        Raises:
            RowError: The template refuses the conversation.
        """
        try:
            return self.tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except Exception as error:  # Jinja code may raise anything; the row is to blame, not us.
            raise RowError("the template refuses this conversation", str(error)) from error

    def split_trained(self, chat: Chat, *, last_only: bool) -> list[Piece]:
        """Cut a conversation's render into trained and untrained pieces.

        Args:
            chat: A checked conversation that ends with an assistant turn to train.
            last_only: Train the last assistant turn only.

        Returns:
            Pieces whose texts join to the plain render. Each trained piece starts where
            generation would start and ends with the token that ends the turn.

        Raises:
            RowError: The template changes contents, drops a turn, or ends no turn.
        """
        turns = [i for i, m in enumerate(chat.messages) if m["role"] == "assistant"]
        if last_only:
            turns = turns[-1:]
        plain = self.render(chat.messages, chat.tools, prompt=False)
        spans = self._locate_contents(chat, turns, plain)
        pieces: list[Piece] = []
        done = 0
        for turn, (start, end) in zip(turns, spans, strict=True):
            is_last = turn == len(chat.messages) - 1
            begin = self._generation_start(chat, turn, plain, start) if is_last else start
            stop = self._end_of_turn(plain, end, turn)
            if begin < done:
                raise RowError("turns overlap in the render", f"turn {turn + 1}")
            pieces.append(Piece(plain[done:begin], trained=False))
            pieces.append(Piece(plain[begin:stop], trained=True))
            done = stop
        pieces.append(Piece(plain[done:], trained=False))
        return [piece for piece in pieces if piece.text]

    def _locate_contents(
        self, chat: Chat, turns: Sequence[int], plain: str
    ) -> list[tuple[int, int]]:
        """Find each turn's content in the plain render, as (start, end) characters."""
        marked = [dict(message) for message in chat.messages]
        for turn in turns:
            content = marked[turn].get("content") or ""
            if _OPEN in content or _CLOSE in content:
                raise RowError("content holds a private-use character", f"turn {turn + 1}")
            marked[turn]["content"] = f"{_OPEN}{content}{_CLOSE}"
        text = self.render(marked, chat.tools, prompt=False)
        parts = text.replace(_CLOSE, _OPEN).split(_OPEN)
        if len(parts) != 2 * len(turns) + 1 or "".join(parts) != plain:
            raise RowError(
                "the template rewrites or drops an assistant turn",
                "its text cannot be told apart in the render",
            )
        spans, position = [], 0
        for before, content in zip(parts[0:-1:2], parts[1::2], strict=True):
            start = position + len(before)
            position = start + len(content)
            spans.append((start, position))
        return spans

    def _generation_start(self, chat: Chat, turn: int, plain: str, start: int) -> int:
        """Character at which generation of the last turn would start; checks the prompt."""
        prompt = self.render(chat.messages[:turn], chat.tools, prompt=True)
        if not plain.startswith(prompt) or len(prompt) > start:
            raise RowError(
                "training prompt and inference prompt differ",
                "the generation prompt is not how the render goes on",
            )
        return len(prompt)

    def _end_of_turn(self, plain: str, end: int, turn: int) -> int:
        """Character after the special token that ends a turn whose content ends at ``end``."""
        found = [(plain.find(s, end), -len(s), s) for s in self._special if s in plain[end:]]
        if not found:
            raise RowError(
                "the template ends no assistant turn",
                f"no special token after turn {turn + 1}: an answer could never end",
            )
        position, _, token = min(found)
        return position + len(token)
