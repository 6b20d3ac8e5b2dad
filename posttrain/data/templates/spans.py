"""Where a conversation's turns are in its render.

The template is never asked which text is the assistant's, and the text is never searched for it.
Instead each turn is rendered with two marks around its content; where they come out is where the
content is. Taking them out again must give the plain render. A turn starts where the inference
prompt ends, and ends with the special token behind its content or its tool calls. What a template
drops or rewrites is noticed, and the row is refused.

The last turn is not always trained as it is rendered: some templates end it only where the
conversation goes on (Qwen1.5), some leave the thinking away that their prompt opens (DeepSeek-R1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from posttrain.data.records import Chat, Message, RowError
from posttrain.data.templates.shield import CLOSE, OPEN

REWRITES = "the template rewrites or drops an assistant turn"
DIFFERS = "training prompt and inference prompt differ"
REFUSES = "the template refuses this conversation"
_OPENED_THINKING = re.compile(r"<think>\s*\Z")
_MARKS = re.compile(f"[{OPEN}{CLOSE}]")
_SHOWN = 30
Span = tuple[int | None, int | None]
"""Start and end of a content in the render; None where it is not known."""


class Render(Protocol):
    """Renders messages as text."""

    def __call__(self, messages: Sequence[Message], tools: Any = None, *, prompt: bool) -> str:
        """Render messages, ending with the header of an assistant turn for a prompt."""


@dataclass(frozen=True)
class Stretch:
    """Where one assistant turn is in the render, in characters."""

    turn: int
    begin: int
    """Where generation would start."""
    content_end: int | None
    """Behind its content; None for a turn of tool calls alone."""
    stop: int
    """Behind the token that ends it."""


@dataclass(frozen=True)
class Found:
    """A conversation's text and where its turns are in it."""

    text: str
    """The render; where the last turn is not trained as the template writes it, the prompt of
    inference and the answer behind it."""
    stretches: list[Stretch]


class TurnFinder:
    """Finds the turns of conversations in their renders.

    Args:
        render: Renders messages with the template.
        special: Matches special tokens.
        end_token: The tokenizer's own end token, if it has one.
    """

    def __init__(self, render: Render, special: re.Pattern[str], end_token: str | None) -> None:
        self._render = render
        self._special = special
        self._end_token = end_token

    def find(self, chat: Chat, turns: Sequence[int], plain: str) -> Found:
        """Find assistant turns.

        Args:
            chat: The conversation.
            turns: Positions of the turns to find.
            plain: The conversation's render.

        Raises:
            RowError: The template changes contents, drops a part of a turn, or ends no turn.
        """
        spans = self.locate_contents(chat, turns, plain)
        found: list[Stretch] = []
        done = 0
        for turn, (start, end) in zip(turns, spans, strict=True):
            try:
                begin = self._generation_start(chat, turn, plain, (start, end))
            except RowError:
                if answered := self._answer_opened_thinking(chat, turn, plain, end):
                    text, stretch = answered
                    return Found(text, [*found, stretch])
                raise
            if end is not None and self._lacks_end(chat, turn, plain, end):
                plain += self._end_of_going_on(chat, plain)
            stop = self._end_of_turn(chat, turn, plain, begin if end is None else end, begin)
            if not done <= begin < stop:
                raise RowError("turns overlap in the render", f"turn {turn + 1}")
            check_content(chat.messages[turn], turn, plain[done:end])
            check_reasoning(chat.messages[turn], turn, plain[done:stop])
            check_calls(chat.messages[turn], turn, plain[done:stop])
            found.append(Stretch(turn, begin, end, stop))
            done = stop
        return Found(plain, found)

    def locate_contents(self, chat: Chat, turns: Sequence[int], plain: str) -> list[Span]:
        """Find each turn's content in the plain render.

        A turn of tool calls alone is not marked: templates write nothing for an empty content,
        and something for a marked one.
        """
        filled = [
            turn
            for turn, message in ((turn, chat.messages[turn]) for turn in turns)
            if (message.get("content") or "").strip() or not message.get("tool_calls")
        ]
        for mark in (_mark_around, _mark_inside):
            if (spans := self._read_marked(chat, filled, mark, plain)) is not None:
                break
        else:
            spans = [self._locate_alone(chat, turn, plain) for turn in filled]
        found = dict(zip(filled, spans, strict=True))
        return [found.get(turn, (None, None)) for turn in turns]

    def _locate_alone(self, chat: Chat, turn: int, plain: str) -> Span:
        for mark in (_mark_around, _mark_inside, _mark_behind):
            if spans := self._read_marked(chat, [turn], mark, plain):
                return spans[0]
        raise RowError(REWRITES, f"turn {turn + 1}: its text cannot be told apart in the render")

    def _read_marked(
        self, chat: Chat, turns: Sequence[int], mark: Callable[[str], str], plain: str
    ) -> list[Span] | None:
        """Render with marks in some turns; None where that changes the render."""
        marked = [dict(message) for message in chat.messages]
        for turn in turns:
            marked[turn]["content"] = mark(str(marked[turn].get("content") or ""))
        text = self._render(marked, chat.tools, prompt=False)
        spans = _read_marks(text, len(turns))
        return spans if spans is not None and _MARKS.sub("", text) == plain else None

    def _generation_start(self, chat: Chat, turn: int, plain: str, span: Span) -> int:
        """Character at which generation of a turn would start.

        The prompt may hold the content's first words, such as the mark that opens the thinking.
        An earlier turn may have been written after another prompt, and then starts at its
        content, unless it has thinking, which stands before that; the last turn may not.
        """
        start, end = span
        is_last = turn == len(chat.messages) - 1
        if (chat.messages[turn].get("reasoning_content") or "").strip():
            start = None
        try:
            prompt = self._render(chat.messages[:turn], chat.tools, prompt=True)
        except RowError:
            if is_last or start is None:
                raise
            return start
        if plain.startswith(prompt) and (end is None or len(prompt) <= end):
            return len(prompt)
        if is_last or start is None:
            raise RowError(
                DIFFERS,
                f"turn {turn + 1}: the prompt ends with {prompt[-_SHOWN:]!r}, and the turn is "
                "rendered otherwise",
            )
        return start

    def _answer_opened_thinking(
        self, chat: Chat, turn: int, plain: str, end: int | None
    ) -> tuple[str, Stretch] | None:
        """Put the last turn behind an inference prompt that opens the thinking.

        Templates of models that always think open it in the prompt and leave the whole thinking
        away when they write the turn. What such a model is to write is the rest of the thinking,
        the answer, and the token with which the template ends the turn.
        """
        message = chat.messages[turn]
        prompt = self._render(chat.messages[:turn], chat.tools, prompt=True)
        opening = _OPENED_THINKING.search(prompt)
        if opening is None or end is None or turn != len(chat.messages) - 1:
            return None
        answer = str(message["content"])
        if reasoning := str(message.get("reasoning_content") or ""):
            answer = f"<think>\n{reasoning}\n</think>\n\n{answer}"
        answer = answer.lstrip()
        opened = opening.group()
        if not answer.startswith("<think>") or "</think>" not in answer:
            return None
        if not plain.startswith(prompt.removesuffix(opened)) or message.get("tool_calls"):
            return None
        if answer.startswith(opened):
            answer = answer.removeprefix(opened)
        else:
            answer = answer.removeprefix("<think>").lstrip("\n")
        stop = self._end_of_turn(chat, turn, plain, end, end)
        text = prompt + answer
        done = len(text) + stop - end
        return text + plain[end:], Stretch(turn, len(prompt), len(text), done)

    def _lacks_end(self, chat: Chat, turn: int, plain: str, end: int) -> bool:
        is_last = turn == len(chat.messages) - 1 and not chat.messages[turn].get("tool_calls")
        return is_last and self._special.search(plain, end) is None

    def _end_of_going_on(self, chat: Chat, plain: str) -> str:
        """The end of the last turn as the template writes it where the conversation goes on."""
        going_on = [*chat.messages, {"role": "user", "content": CLOSE}]
        text = self._render(going_on, chat.tools, prompt=False)
        ending = self._special.search(text, len(plain))
        if not text.startswith(plain) or ending is None or ending.start() > text.find(CLOSE):
            found = "no special token follows it, also where the conversation goes on"
        elif ending.group() == self._end_token:
            return text[len(plain) : ending.end()]
        else:
            found = (
                f"where the conversation goes on, {ending.group()} follows, which is not the "
                f"tokenizer's end token {self._end_token}"
            )
        raise RowError(
            "the template ends no assistant turn",
            f"turn {len(chat.messages)}: an answer could never end; {found}",
        )

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
        own, text_turn = calling_probes(chat, turn)
        written = self._render(own, chat.tools, prompt=False)
        _, mark, behind = self._render(text_turn, chat.tools, prompt=False).partition(CLOSE)
        if not written.startswith(prompt) or not mark:
            raise RowError(REWRITES, f"turn {turn + 1}: tool calls")
        find = self._special.findall
        return len(find(written, len(prompt))) - len(find(behind)) + 1


def calling_probes(chat: Chat, turn: int) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Conversations whose renders show where a turn of tool calls ends: itself, and with text."""
    text = {"role": "assistant", "content": CLOSE}
    return chat.messages[: turn + 1], (*chat.messages[:turn], text)


def _mark_around(content: str) -> str:
    return f"{OPEN}{content}{CLOSE}"


def _mark_inside(content: str) -> str:
    """For templates that strip contents: the space stays outside, where they take it off."""
    body = content.strip()
    before, _, after = content.partition(body)
    return f"{before}{OPEN}{body}{CLOSE}{after}"


def _mark_behind(content: str) -> str:
    """For templates that take a thinking part off the front and write it anew."""
    body = content.rstrip()
    return f"{body}{CLOSE}{content[len(body) :]}"


def _read_marks(text: str, count: int) -> list[Span] | None:
    """Read the spans of ``count`` marked contents, in characters of the text without marks."""
    starts: list[int] = []
    ends: list[int] = []
    for number, mark in enumerate(_MARKS.finditer(text)):
        (starts if mark.group() == OPEN else ends).append(mark.start() - number)
    if len(ends) != count or len(starts) not in (0, count):
        return None
    if not starts:
        return [(None, end) for end in ends]
    in_order = all(a <= b for a, b in zip(starts, ends, strict=True))
    return list(zip(starts, ends, strict=True)) if in_order else None


def check_tools(tools: Sequence[Any], plain: str) -> None:
    """Check that each declared tool's name came out.

    Raises:
        RowError: One did not.
    """
    for tool in tools:
        name = (tool.get("function") or tool).get("name")
        if isinstance(name, str) and name not in plain:
            raise RowError("the template drops the tools", name)


def check_content(message: Message, turn: int, to_content: str) -> None:
    """Check that all words of a turn's content came out; only the space around them may differ.

    Args:
        message: The turn.
        turn: Its position, from 0.
        to_content: The render from the end of the trained turn before, up to the content's end.

    Raises:
        RowError: Something is missing.
    """
    content = _squeeze(str(message.get("content") or ""))
    if not _squeeze(to_content).endswith(content):
        raise RowError(
            "the template drops a part of an assistant turn",
            f"turn {turn + 1}; where it is the thinking of earlier turns, set "
            f"data.train_on: last_assistant",
        )


def check_reasoning(message: Message, turn: int, to_end: str) -> None:
    """Check that a turn's reasoning is in the render up to its end.

    Raises:
        RowError: It is not.
    """
    if _squeeze(str(message.get("reasoning_content") or "")) not in _squeeze(to_end):
        raise RowError(
            "the template drops the reasoning of a turn",
            f"turn {turn + 1}; of earlier turns many do, set data.train_on: last_assistant",
        )


def check_calls(message: Message, turn: int, to_end: str) -> None:
    """Check that a turn's tool calls are in the render up to its end.

    Raises:
        RowError: One is not.
    """
    for call in message.get("tool_calls") or ():
        if call["function"]["name"] not in to_end:
            raise RowError("the template drops a tool call", f"turn {turn + 1}")


def _squeeze(text: str) -> str:
    return "".join(text.split())
