"""Conversations -> text, and its trained and untrained pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from posttrain.config.data import TrainOn
from posttrain.data.records import Chat, Message, RowError
from posttrain.data.templates.code import Fill, Piece, compile_skeleton, weight_of
from posttrain.data.templates.jinja import ChatTemplate
from posttrain.data.templates.shield import Shield
from posttrain.data.templates.skeletons import SkeletonMaker
from posttrain.data.templates.spans import DIFFERS, REFUSES, REWRITES, TurnFinder, check_tools
from posttrain.data.templates.trace import UntraceableError
from posttrain.errors import ConfigError

_PROVED_FIRST, _PROVED_EACH = 3, 100
_OF_MARKS = {REWRITES, DIFFERS, REFUSES}
"""Reasons that may be owed to the marks, so that a skeleton is tried."""
_MOST_SHAPES, _MOST_SKELETONS, _MOST_CASES = 16384, 1024, 16
_MOST_TURNS = 64
"""Longer conversations seldom have a shape in common."""


class ChatRenderer:
    """Renders conversations with a tokenizer's own template.

    Texts that look like a special token are shielded (`shield.py`): encode what comes out with a
    `Codec`, or take the shields out with `unshield`.

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
        self._shield = Shield.of(tokenizer)
        self.special = self._shield.pattern
        """Matches special tokens."""
        self._template = ChatTemplate(tokenizer)
        self._finder = TurnFinder(self._render, self.special, tokenizer.eos_token)
        self._maker = SkeletonMaker(self._template, self._shield)
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._kept = 0
        self.counts: Counter[str] = Counter()
        """How conversations were split: ``filled`` into a skeleton (``proved`` of them against the
        template) or ``rendered``; and skeletons ``made`` and ``wrong``."""

    def render(self, messages: Sequence[Message], tools: Any = None, *, prompt: bool) -> str:
        """Render messages as text.

        Args:
            messages: The conversation.
            tools: Tool declarations, or nothing.
            prompt: Whether to end with the header of an assistant turn to be written.

        Returns:
            The text, shielded.

        Raises:
            RowError: The template refuses the conversation, or a text cannot be shielded.
        """
        messages = self._shield.shield_messages(tuple(messages))
        return self._render(messages, self._shield.shield_tools(tools), prompt=prompt)

    def render_prompt(self, chat: Chat) -> str:
        """Render a conversation up to where the answer is to be written.

        Raises:
            RowError: As of `render`.
        """
        return self.render(chat.prompt, chat.tools, prompt=True)

    def _render(self, messages: Sequence[Message], tools: Any = None, *, prompt: bool) -> str:
        try:
            return self._template.render(messages, tools, prompt=prompt)
        except Exception as error:  # Jinja code may raise anything; the row is to blame, not us.
            raise RowError(REFUSES, str(error)) from error

    def split_trained(self, chat: Chat, train_on: TrainOn) -> list[Piece]:
        """Cut a conversation's render into trained and untrained pieces.

        Args:
            chat: A checked conversation that ends with an assistant turn to train.
            train_on: Which turns are trained.

        Returns:
            Pieces whose texts join to the render, shielded. Each trained turn is one piece; it
            starts where generation would start and ends with the token that ends the turn. (Two
            exceptions in what the last turn looks like: see `spans.py`.)

        Raises:
            RowError: The template changes contents, drops a part of a turn or the tools, or ends
                no turn; a text cannot be shielded; or no turn has a loss weight.
        """
        chat = self._shield.shield_chat(chat)
        key = _shape_of(chat, train_on)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= _MOST_SHAPES or self._kept >= _MOST_SKELETONS:
                self._shapes.clear()
                self._kept = 0
            shape = self._shapes[key] = _Shape()
        for number, case in enumerate(shape.cases):
            pieces = case.try_fill(chat)
            if pieces is None:
                continue
            if number:  # the commonest cases move to the front
                shape.cases[number - 1 : number + 1] = [case, shape.cases[number - 1]]
            self.counts["filled"] += 1
            if case.uses > _PROVED_FIRST and case.uses % _PROVED_EACH:
                return pieces
            return self._prove(chat, train_on, shape, case, pieces)
        return self._split_by_template(chat, train_on, shape)

    def split_by_marks(self, chat: Chat, train_on: TrainOn) -> list[Piece]:
        """Cut a conversation by its renders with marks, as `split_trained` does without skeletons.

        Raises:
            RowError: As of `split_trained`.
        """
        return self._split(self._shield.shield_chat(chat), train_on)

    def _prove(
        self, chat: Chat, train_on: TrainOn, shape: _Shape, case: _Case, filled: list[Piece]
    ) -> list[Piece]:
        """Hold a filled skeleton against the template; one that is wrong is not used again."""
        self.counts["proved"] += 1
        pieces = filled
        is_right = self._is_render(chat, filled)
        if case.uses == 1 or not is_right:
            try:
                pieces = self._split(chat, train_on)
            except RowError:  # marks cannot tell the turns apart where the skeleton can
                if not is_right:
                    raise
        if not is_right or pieces != filled:
            shape.drop(case)
            self.counts["wrong"] += 1
        return pieces

    def _is_render(self, chat: Chat, pieces: Sequence[Piece]) -> bool:
        plain = self._render(chat.messages, chat.tools, prompt=False)
        return "".join(piece.text for piece in pieces) == plain

    def _split_by_template(self, chat: Chat, train_on: TrainOn, shape: _Shape) -> list[Piece]:
        """Split by rendering with marks; the second time, make a skeleton of the shape.

        Also where marks fail: whether a row is used must not depend on the rows before it.
        """
        self.counts["rendered"] += 1
        shape.misses += 1
        try:
            pieces = self._split(chat, train_on)
        except RowError as error:
            fill = self._make(chat, train_on) if error.reason in _OF_MARKS else None
            case = _Case(fill) if fill else None
            found = case.try_fill(chat) if case else None
            if case is None or found is None or not self._is_render(chat, found):
                raise
            shape.add(case)
            return found
        if 1 < shape.misses <= _MOST_CASES and (fill := self._make(chat, train_on)) is not None:
            shape.add(_Case(fill))
        return pieces

    def _make(self, chat: Chat, train_on: TrainOn) -> Fill | None:
        """Make the function of a conversation's skeleton, if there is one."""
        if len(chat.messages) > _MOST_TURNS or _weighted_others(chat, train_on):
            return None
        try:
            skeleton = self._maker.make(chat, _turns(chat, train_on))
            fill = compile_skeleton(skeleton, self._shield, _rest_weight(train_on))
        except (UntraceableError, SyntaxError, RecursionError):
            self.counts["untraceable"] += 1
            return None
        self.counts["made"] += 1
        self._kept += 1
        return fill

    def _split(self, chat: Chat, train_on: TrainOn) -> list[Piece]:
        turns = _turns(chat, train_on)
        others = _weighted_others(chat, train_on)
        plain = self._render(chat.messages, chat.tools, prompt=False)
        check_tools(chat.tools, plain)
        found = self._finder.find(chat, turns, plain)
        weighted = [(s.begin, s.stop, weight_of(chat.messages[s.turn])) for s in found.stretches]
        spans = self._finder.locate_contents(chat, others, plain) if others else []
        for turn, (start, end) in zip(others, spans, strict=True):
            if start is None or end is None:
                place = f"turn {turn + 1}"
                raise RowError("the template rewrites a turn that has a loss weight", place)
            weighted.append((start, end, weight_of(chat.messages[turn])))
        weighted.sort()
        if any(first[1] > second[0] for first, second in pairwise(weighted)):
            raise RowError("turns overlap in the render")
        return _cut(found.text, weighted, _rest_weight(train_on))


class _Shape:
    """What is known of conversations with the same roles and fields."""

    def __init__(self) -> None:
        self.cases: list[_Case] = []
        self.misses = 0
        self._is_closed = False

    def add(self, case: _Case) -> None:
        """Keep a skeleton, if there is room and none was wrong."""
        if not self._is_closed and len(self.cases) < _MOST_CASES:
            self.cases.append(case)

    def drop(self, case: _Case) -> None:
        """Take a wrong skeleton out, and make none of this shape again."""
        self.cases.remove(case)
        self._is_closed = True


class _Case:
    """A skeleton and how often it was used."""

    def __init__(self, fill: Fill) -> None:
        self.uses = 0
        self._fill = fill

    def try_fill(self, chat: Chat) -> list[Piece] | None:
        """Return the conversation's pieces, or None where it is another case."""
        try:
            pieces = self._fill(chat.messages, chat.tools)
        except Exception:  # a guard asked too much, or a check failed: the template decides
            return None
        if pieces is not None:
            self.uses += 1
        return pieces


def _shape_of(chat: Chat, train_on: TrainOn) -> tuple[Any, ...]:
    """Everything that decides on the skeletons to try: roles, fields, and which turns count."""
    parts: list[Any] = [train_on, not chat.tools]
    for message in chat.messages:
        if len(message) == 2 and type(message.get("content")) is str:
            parts.append(message["role"])
        else:
            parts.append(tuple(_field(name, value) for name, value in message.items()))
    return tuple(parts)


def _field(name: str, value: Any) -> tuple[Any, ...]:
    if name == "role":
        return name, value
    if name == "loss_weight":
        return name, (value or 0) > 0 or value is None, value == 1
    return name, type(value)


def _turns(chat: Chat, train_on: TrainOn) -> list[int]:
    """Positions of the assistant turns to find."""
    messages = chat.messages
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if train_on == "everything":
        return turns
    if train_on == "last_assistant":
        turns = turns[-1:]
    elif train_on == "completion":
        last_user = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
        turns = [turn for turn in turns if turn > last_user]
    weighted = [turn for turn in turns if weight_of(messages[turn]) > 0]
    if not weighted:
        raise RowError("no turn to train", f"train_on: {train_on}, all of its turns weigh 0")
    return weighted


def _weighted_others(chat: Chat, train_on: TrainOn) -> list[int]:
    """Turns of others than the assistant whose content has a loss weight of its own."""
    given = [
        (turn, weight_of(message))
        for turn, message in enumerate(chat.messages)
        if "loss_weight" in message and message["role"] != "assistant"
    ]
    if train_on == "everything":
        return [turn for turn, weight in given if weight != 1]
    for turn, weight in given:
        if weight > 0:
            raise RowError(
                "a loss weight on a turn that is not the assistant's",
                f"turn {turn + 1}; with data.train_on: everything it counts",
            )
    return []


def _rest_weight(train_on: TrainOn) -> float:
    return 1.0 if train_on == "everything" else 0.0


def _cut(plain: str, weighted: Sequence[tuple[int, int, float]], rest: float) -> list[Piece]:
    pieces: list[Piece] = []
    done = 0
    for begin, stop, weight in weighted:
        pieces += [Piece(plain[done:begin], rest), Piece(plain[begin:stop], weight)]
        done = stop
    pieces.append(Piece(plain[done:], rest))
    return [piece for piece in pieces if piece.text]
