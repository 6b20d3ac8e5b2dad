"""Where turns are in a render that is known as literals and places for texts.

The same questions as in `spans.py`, answered without marks: a traced render says which of its
stretches is which text, so that a content is where its place is. What is found so holds for every
conversation to which the template asks the same questions and gets the same answers; for these it
becomes a Python function of a few lines (`code.py`). Where an answer would not be the same for all
of them, or where `spans.py` would refuse, nothing is found, and `spans.py` decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from posttrain.data.records import Chat, Message
from posttrain.data.templates.jinja import ChatTemplate
from posttrain.data.templates.shield import CLOSE, Shield
from posttrain.data.templates.spans import calling_probes
from posttrain.data.templates.trace import (
    Atom,
    Probe,
    RefusedError,
    TracedTemplate,
    Tracer,
    UntraceableError,
)

FIELDS = ("content", "reasoning_content", "tool_calls", "tool_call_id", "name")
"""Fields of a message whose values may differ in conversations with the same skeleton."""


class Place(NamedTuple):
    """A place in a render: behind so many characters of an atom, which is a literal or done."""

    atom: int
    offset: int


@dataclass(frozen=True)
class PlacedTurn:
    """Where an assistant turn is."""

    turn: int
    begin: Place
    """Where generation would start."""
    stop: Place
    """Behind the token that ends it."""
    content_end: int | None
    """Atom with which its content ends, where it must be checked that all of it came out."""
    check_reasoning: bool
    check_calls: bool


@dataclass(frozen=True)
class Skeleton:
    """A traced render and its turns, for all conversations of one case."""

    atoms: list[Atom]
    turns: list[PlacedTurn]
    guards: dict[str, Any]
    """Python expressions, and what they give in this case."""
    fields: dict[str, str]
    """Names in these expressions, and how to get at them."""
    has_tools: bool
    special_count: int | None
    """Special tokens of the literals, where more could come up at their ends."""


class SkeletonMaker:
    """Traces a tokenizer's template and finds the turns.

    Args:
        template: The tokenizer's template.
        shield: Knows its special tokens.
    """

    def __init__(self, template: ChatTemplate, shield: Shield) -> None:
        self._template = template
        self._shield = shield
        self._traced: dict[int, TracedTemplate] = {}

    def make(self, chat: Chat, turns: Sequence[int]) -> Skeleton:
        """Make the skeleton of a conversation.

        Args:
            chat: The conversation, shielded.
            turns: Positions of the assistant turns to find.

        Raises:
            UntraceableError: There is none, or a turn may not be trained.
        """
        trace = _Trace(self._template, self._traced, chat)
        atoms = trace.run(chat.messages, prompt=False)
        finder = _Finder(trace, atoms, self._shield)
        placed = [finder.find(turn) for turn in turns]
        return Skeleton(
            atoms,
            placed,
            trace.tracer.guards,
            trace.fields,
            bool(chat.tools),
            self._count_special(atoms),
        )

    def _count_special(self, atoms: Sequence[Atom]) -> int | None:
        if not _may_join(atoms, self._shield.tokens):
            return None
        find = self._shield.pattern.findall
        return sum(len(find(atom.text)) for atom in atoms if not atom.source)


class _Trace:
    """All traced renders of one conversation, with guards in common."""

    def __init__(
        self, template: ChatTemplate, traced: dict[int, TracedTemplate], chat: Chat
    ) -> None:
        self.tracer = Tracer()
        self.fields: dict[str, str] = {}
        self.chat = chat
        self._template = template
        self._tools = Probe(self.tracer, list(chat.tools), "tools") if chat.tools else None
        compiled = template.compiled(self._tools)
        if id(compiled) not in traced:
            traced[id(compiled)] = TracedTemplate(compiled, template.source(self._tools))
        self._traced = traced[id(compiled)]
        self._probes = [self._probe(*numbered) for numbered in enumerate(chat.messages)]

    def run(self, messages: Sequence[Message], *, prompt: bool) -> list[Atom]:
        """Render messages of the conversation, and maybe one more."""
        own = self.chat.messages
        probes = [
            self._probes[turn] if turn < len(own) and message is own[turn] else message
            for turn, message in enumerate(messages)
        ]
        variables = self._template.variables(probes, self._tools, prompt=prompt)
        return self._traced.run(variables, self.tracer)

    def _probe(self, turn: int, message: Message) -> Message:
        probes: Message = {}
        for name, value in message.items():
            if value is None or name == "loss_weight":
                continue
            if name == "role":
                probes[name] = value
            elif name in FIELDS and type(value) in (str, list):
                source = f"{name}_{turn}"
                self.fields[source] = f"m[{turn}][{name!r}]"
                probes[name] = Probe(self.tracer, value, source, field=source, whole=True)
            else:
                raise UntraceableError(f"a field {name}")
        return probes


class _Finder:
    """Finds turns in a traced render, one after the other."""

    def __init__(self, trace: _Trace, atoms: Sequence[Atom], shield: Shield) -> None:
        self._trace = trace
        self._atoms = atoms
        self._shield = shield
        self._done = Place(0, 0)

    def find(self, turn: int) -> PlacedTurn:
        """Find a turn behind those found before."""
        message = self._trace.chat.messages[turn]
        calls = bool(message.get("tool_calls"))
        slots = self._content_slots(turn, message, calls=calls)
        start = Place(slots[0], 0) if len(slots) == 1 else None
        begin = self._begin(turn, start, slots[-1] if slots else None)
        number = 1
        if calls:
            number = self._count_to_end(turn, begin)
        position = begin if calls or not slots else Place(slots[-1], 0)
        stop = self._end(position, number)
        if not self._done <= begin < stop:
            raise UntraceableError("turns that overlap")
        inside = {a.field for a in self._atoms[self._done.atom : stop.atom + 1] if a.whole}
        reasons = message.get("reasoning_content") is not None
        self._done = stop
        return PlacedTurn(
            turn,
            begin,
            stop,
            content_end=slots[-1] if slots and f"content_{turn}" not in inside else None,
            check_reasoning=reasons and f"reasoning_content_{turn}" not in inside,
            check_calls=calls,
        )

    def _content_slots(self, turn: int, message: Message, *, calls: bool) -> list[int]:
        """Atoms that are parts of a turn's content; none for a turn of tool calls alone."""
        tracer, source = self._trace.tracer, f"content_{turn}"
        if "tool_calls" in message:
            tracer.ask(f"bool(tool_calls_{turn})", calls)
        content = message.get("content")
        if calls:
            filled = bool((content or "").strip())
            if content is not None:
                tracer.ask(f"bool({source}.strip())", filled)
            if not filled:
                return []
        slots = [n for n, atom in enumerate(self._atoms) if atom.field == source]
        if not slots or (len(slots) > 1 and any(self._atoms[n].whole for n in slots)):
            raise UntraceableError("a content that is not there once")
        return slots

    def _begin(self, turn: int, start: Place | None, end: int | None) -> Place:
        """Where a turn starts: behind its prompt, or with its content."""
        messages = self._trace.chat.messages
        try:
            prompt = self._trace.run(messages[:turn], prompt=True) if turn else None
        except RefusedError:
            prompt = None
        place = self._compare(prompt, self._atoms) if prompt is not None else None
        if place is not None and (end is None or place <= Place(end, 0)):
            return place
        is_last, thinks = turn == len(messages) - 1, messages[turn].get("reasoning_content")
        if start is None or is_last or thinks or not start.atom:
            raise UntraceableError("a prompt that is not how the render goes on")
        before = start.atom - 1
        if self._atoms[before].source:
            raise UntraceableError("a content behind another text")
        return Place(before, len(self._atoms[before].text))

    def _compare(self, prompt: Sequence[Atom], atoms: Sequence[Atom]) -> Place | None:
        """Where a prompt ends in a render that starts with it; None for one that never does."""
        for number, (part, atom) in enumerate(zip(prompt, atoms, strict=False)):
            is_last = number == len(prompt) - 1
            if part.source != atom.source:
                break
            if part.source:
                continue
            if is_last and atom.text.startswith(part.text):
                return Place(number, len(part.text))
            if part.text == atom.text:
                continue
            if is_last and part.text.startswith(atom.text):
                self._ask_not_to_go_on(part.text[len(atom.text) :], atoms[number + 1 :])
            elif part.text.startswith(atom.text) or atom.text.startswith(part.text):
                break
            return None
        raise UntraceableError("a prompt that may or may not start the render")

    def _ask_not_to_go_on(self, rest: str, atoms: Sequence[Atom]) -> None:
        """Guard that a text which may open like the prompt's last words does not."""
        if len(atoms) < 2 or len(atoms[1].text) < len(rest) or atoms[1].source:
            raise UntraceableError("a content that may open like the prompt's end")
        opening = (atoms[0].text + atoms[1].text).startswith(rest)
        source = f"({atoms[0].source} + {atoms[1].text!r}).startswith({rest!r})"
        if self._trace.tracer.ask(source, opening):
            raise UntraceableError("a content that goes on from the prompt's end")

    def _count_to_end(self, turn: int, begin: Place) -> int:
        """Special tokens of a turn with tool calls, its end among them; calls may hold some."""
        own, text_turn = calling_probes(self._trace.chat, turn)
        written = self._trace.run(own, prompt=False)
        literal = self._atoms[begin.atom].text[: begin.offset]
        same = [a.source or a.text for a in self._atoms[: begin.atom]]
        if same != [a.source or a.text for a in written[: begin.atom]]:
            raise UntraceableError("a call whose prompt is not that of the whole")
        if len(written) <= begin.atom or not written[begin.atom].text.startswith(literal):
            raise UntraceableError("a call whose prompt is not that of the whole")
        answered = self._trace.run(text_turn, prompt=False)
        marked = [n for n, atom in enumerate(answered) if CLOSE in atom.text and not atom.source]
        if len(marked) != 1:
            raise UntraceableError("a call that is not written like a text")
        behind = Place(marked[0], answered[marked[0]].text.index(CLOSE))
        after = len(list(self._special(answered, behind)))
        return len(list(self._special(written, begin))) - after + 1

    def _end(self, position: Place, number: int) -> Place:
        """Behind the special token, counted from a place, that ends a turn."""
        ends = self._special(self._atoms, position)
        for _ in range(number - 1):
            next(ends, None)
        end = next(ends, None)
        if end is None or number < 1:
            raise UntraceableError("a turn without an end")
        return end

    def _special(self, atoms: Sequence[Atom], position: Place) -> Iterator[Place]:
        """Ends of the special tokens behind a place; texts hold none."""
        for number in range(position.atom, len(atoms)):
            if not atoms[number].source:
                start = position.offset if number == position.atom else 0
                for found in self._shield.pattern.finditer(atoms[number].text, start):
                    yield Place(number, found.end())


def _may_join(atoms: Sequence[Atom], tokens: Sequence[str]) -> bool:
    """Whether a special token may come up where a text meets its neighbours."""
    for atom, follower in pairwise(atoms):
        if atom.source and follower.source:
            return True
        literal, ending = (atom.text, True) if follower.source else (follower.text, False)
        if any(_may_straddle(token, literal, ending=ending) for token in tokens):
            return True
    return False


def _may_straddle(token: str, literal: str, *, ending: bool) -> bool:
    """Whether a token may lie across the end, or the start, of a literal."""
    if literal in token and literal != token:
        return True
    lengths = range(1, min(len(token), len(literal) + 1))
    if ending:
        return any(literal.endswith(token[:n]) for n in lengths)
    return any(literal.startswith(token[-n:]) for n in lengths)
