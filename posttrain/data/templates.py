"""Render a conversation and say which characters are trained, by construction.

The template is never asked which text is the assistant's, and the text is never searched for it.
Instead each assistant turn is rendered with two marks around its content; where they come out is
where the content is. Taking them out again must give the plain render. A turn starts where the
inference prompt ends, and ends with the special token behind its content or its tool calls. What
a template drops or rewrites is noticed, and the row is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from posttrain.data.records import Chat, Message, RowError
from posttrain.errors import ConfigError

# Two code points that Unicode keeps out of all text for such uses; tokenizers never see them.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARKS = re.compile(f"[{_OPEN}{_CLOSE}]")
_NEVER = "(?!)"
Span = tuple[int | None, int | None]
"""Start and end of a content in the render; None where it is not known."""


@dataclass(frozen=True)
class Piece:
    """A stretch of rendered text with one loss weight."""

    text: str
    weight: float
    """0 where it is not trained."""


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
        special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        special.update(tokenizer.all_special_tokens)
        # Longest first: one special token may start another.
        longest_first = sorted(special, key=lambda token: (-len(token), token))
        self._special = re.compile("|".join(map(re.escape, longest_first)) or _NEVER)

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
            RowError: The template changes contents, drops a part of a turn or the tools, or ends
                no turn; or a text holds a special token, which would end a turn early.
        """
        self.check_texts(chat)
        turns = [i for i, m in enumerate(chat.messages) if m["role"] == "assistant"]
        if last_only:
            turns = turns[-1:]
        plain = self.render(chat.messages, chat.tools, prompt=False)
        _check_tools(chat, plain)
        spans = self._locate_contents(chat, turns, plain)
        pieces: list[Piece] = []
        done = 0
        for turn, (start, end) in zip(turns, spans, strict=True):
            begin = self._generation_start(chat, turn, plain, (start, end))
            stop = self._end_of_turn(chat, turn, plain, begin if end is None else end, begin)
            if not done <= begin < stop:
                raise RowError("turns overlap in the render", f"turn {turn + 1}")
            _check_whole(chat.messages[turn], turn, plain[done:end], plain[done:stop])
            pieces.append(Piece(plain[done:begin], 0.0))
            pieces.append(Piece(plain[begin:stop], 1.0))
            done = stop
        pieces.append(Piece(plain[done:], 0.0))
        return [piece for piece in pieces if piece.text]

    def check_texts(self, chat: Chat) -> None:
        """Check that no text of a conversation would be read as more than text.

        Raises:
            RowError: A text holds a special token or one of our marks.
        """
        for turn, message in enumerate(chat.messages):
            for text in _texts({k: v for k, v in message.items() if k != "role"}):
                self._check_text(text, f"turn {turn + 1}")
        for text in _texts(chat.tools):
            self._check_text(text, "tools")

    def _check_text(self, text: str, place: str) -> None:
        if found := self._special.search(text):
            raise RowError("a text holds a special token", f"{place}: {found.group()}")
        if _MARKS.search(text):
            raise RowError("a text holds a noncharacter", f"{place}: U+FDD0 or U+FDD1")

    def _locate_contents(self, chat: Chat, turns: Sequence[int], plain: str) -> list[Span]:
        """Find each turn's content in the plain render.

        A turn of tool calls alone is not marked: templates write nothing for an empty content,
        and something for a marked one.
        """
        contents = {turn: str(chat.messages[turn].get("content") or "") for turn in turns}
        filled = [t for t in turns if contents[t].strip() or not chat.messages[t].get("tool_calls")]
        for mark in (_mark_around, _mark_inside, _mark_behind):
            marked = [dict(message) for message in chat.messages]
            for turn in filled:
                marked[turn]["content"] = mark(contents[turn])
            text = self.render(marked, chat.tools, prompt=False)
            spans = _read_marks(text, len(filled))
            if spans is not None and _MARKS.sub("", text) == plain:
                found = dict(zip(filled, spans, strict=True))
                return [found.get(turn, (None, None)) for turn in turns]
        raise RowError(
            "the template rewrites or drops an assistant turn",
            "its text cannot be told apart in the render",
        )

    def _generation_start(self, chat: Chat, turn: int, plain: str, span: Span) -> int:
        """Character at which generation of a turn would start.

        The prompt may hold the content's first words, such as the mark that opens the thinking.
        An earlier turn may have been written after another prompt, and then starts at its
        content; the last turn may not.
        """
        start, end = span
        is_last = turn == len(chat.messages) - 1
        try:
            prompt = self.render(chat.messages[:turn], chat.tools, prompt=True)
        except RowError:
            if is_last or start is None:
                raise
            return start
        if plain.startswith(prompt) and (end is None or len(prompt) <= end):
            return len(prompt)
        if is_last or start is None:
            raise RowError(
                "training prompt and inference prompt differ",
                f"turn {turn + 1}: the generation prompt is not how the render goes on",
            )
        return start

    def _end_of_turn(self, chat: Chat, turn: int, plain: str, end: int, begin: int) -> int:
        """Character after the special token that ends a turn whose content ends at ``end``."""
        position, number = end, 1
        if chat.messages[turn].get("tool_calls"):
            position, number = begin, self._count_special(chat, turn, plain[:begin])
        found = list(islice(self._special.finditer(plain, position), max(number, 1)))
        if len(found) != number:
            raise RowError(
                "the template ends no assistant turn",
                f"no special token after turn {turn + 1}: an answer could never end",
            )
        return found[-1].end()

    def _count_special(self, chat: Chat, turn: int, prompt: str) -> int:
        """Special tokens of a turn with tool calls, its end among them; calls may hold some.

        The conversation is rendered up to this turn. What a template writes behind the end of a
        text turn does not count.
        """
        before = chat.messages[:turn]
        own = self.render(chat.messages[: turn + 1], chat.tools, prompt=False)
        text_turn = [*before, {"role": "assistant", "content": _CLOSE}]
        _, mark, behind = self.render(text_turn, chat.tools, prompt=False).partition(_CLOSE)
        if not own.startswith(prompt) or not mark:
            raise RowError(
                "the template rewrites or drops an assistant turn", f"turn {turn + 1}: tool calls"
            )
        return len(self._special.findall(own, len(prompt))) - len(self._special.findall(behind)) + 1


def _mark_around(content: str) -> str:
    return f"{_OPEN}{content}{_CLOSE}"


def _mark_inside(content: str) -> str:
    """For templates that strip contents: the space stays outside, where they take it off."""
    body = content.strip()
    before, _, after = content.partition(body)
    return f"{before}{_OPEN}{body}{_CLOSE}{after}"


def _mark_behind(content: str) -> str:
    """For templates that take a thinking part off the front and write it anew."""
    body = content.rstrip()
    return f"{body}{_CLOSE}{content[len(body) :]}"


def _read_marks(text: str, count: int) -> list[Span] | None:
    """Read the spans of ``count`` marked contents, in characters of the text without marks."""
    starts: list[int] = []
    ends: list[int] = []
    for number, mark in enumerate(_MARKS.finditer(text)):
        (starts if mark.group() == _OPEN else ends).append(mark.start() - number)
    if len(ends) != count or len(starts) not in (0, count):
        return None
    if not starts:
        return [(None, end) for end in ends]
    in_order = all(a <= b for a, b in zip(starts, ends, strict=True))
    return list(zip(starts, ends, strict=True)) if in_order else None


def _check_tools(chat: Chat, plain: str) -> None:
    for tool in chat.tools:
        name = (tool.get("function") or tool).get("name")
        if isinstance(name, str) and name not in plain:
            raise RowError("the template drops the tools", name)


def _check_whole(message: Message, turn: int, to_content: str, to_end: str) -> None:
    """Check that all words of a turn came out; templates may only change the space around them.

    Args:
        message: The turn.
        turn: Its position, from 0.
        to_content: The render from the end of the trained turn before, up to the content's end.
        to_end: The same up to this turn's end.
    """
    content = _squeeze(str(message.get("content") or ""))
    if not _squeeze(to_content).endswith(content):
        raise RowError(
            "the template drops a part of an assistant turn",
            f"turn {turn + 1}; where it is the thinking of earlier turns, set "
            f"data.train_on: last_assistant",
        )
    if _squeeze(str(message.get("reasoning_content") or "")) not in _squeeze(to_end):
        raise RowError(
            "the template drops the reasoning of a turn",
            f"turn {turn + 1}; of earlier turns many do, set data.train_on: last_assistant",
        )
    for call in message.get("tool_calls") or ():
        if call["function"]["name"] not in to_end:
            raise RowError("the template drops a tool call", f"turn {turn + 1}")


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _texts(value: Any) -> Iterator[str]:
    """Every string inside nested values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(name)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
