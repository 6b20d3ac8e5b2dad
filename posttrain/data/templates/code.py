"""Skeletons as Python functions: guards, texts between literals, pieces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from posttrain.data.records import Message
from posttrain.data.templates.shield import Shield
from posttrain.data.templates.skeletons import Place, PlacedTurn, Skeleton
from posttrain.data.templates.spans import (
    check_calls,
    check_content,
    check_reasoning,
    check_tools,
)
from posttrain.data.templates.trace import UntraceableError


class Piece(NamedTuple):
    """A stretch of rendered text with one loss weight."""

    text: str
    weight: float
    """0 where it is not trained."""


Fill = Callable[[Sequence[Message], Sequence[Any]], "list[Piece] | None"]
"""Pieces of a conversation; None where a guard says that it is another case."""


def weight_of(message: Message) -> float:
    """Loss weight of a message as the row states it; 1 where it does not."""
    weight = message.get("loss_weight")
    return 1.0 if weight is None else float(weight)


def compile_skeleton(skeleton: Skeleton, shield: Shield, rest_weight: float) -> Fill:
    """Make the function of a skeleton.

    Texts in it are constants of the template, or answers to its questions, written by ``repr``.

    Args:
        skeleton: Of a traced conversation.
        shield: Knows the special tokens.
        rest_weight: Loss weight of what is outside the turns.
    """
    texts: list[str] = []
    weights: list[str] = []
    checks: list[str] = []
    done = Place(0, 0)
    for turn in skeleton.turns:
        texts += [_join(skeleton, done, turn.begin), _join(skeleton, turn.begin, turn.stop)]
        weights += [str(rest_weight), f"weight(m[{turn.turn}])"]
        checks += _checks(skeleton, turn, done)
        done = turn.stop
    last = len(skeleton.atoms) - 1
    texts.append(_join(skeleton, done, Place(last, len(skeleton.atoms[last].text))))
    weights.append(str(rest_weight))
    kept = [number for number, text in enumerate(texts) if text != "''"]
    whole = f"''.join(({', '.join(f't{n}' for n in kept)},))"
    if skeleton.has_tools:
        checks.append(f"check_tools(tools, {whole})")
    if skeleton.special_count is not None:
        checks.append(f"if count({whole}) != {skeleton.special_count}: return None")
    body = [
        *(_guard(source, answer) for source, answer in skeleton.guards.items()),
        *_slots(skeleton),
        *(f"t{number} = {texts[number]}" for number in kept),
        *checks,
        f"return [{', '.join(f'Piece(t{n}, {weights[n]})' for n in kept)}]",
    ]
    fields = [f"{k} = {v}" for k, v in skeleton.fields.items() if any(k in line for line in body)]
    lines = "\n    ".join([*fields, *body])

    def clean(text: str) -> str:
        if shield.holds_token(text):
            raise UntraceableError("a special token made of several texts")
        return text

    names: dict[str, Any] = {
        "Piece": Piece,
        "as_json": json.dumps,
        "as_plain_json": json.JSONEncoder(ensure_ascii=False).encode,
        "check_calls": check_calls,
        "check_content": check_content,
        "check_reasoning": check_reasoning,
        "check_tools": check_tools,
        "clean": clean,
        "count": lambda text: len(shield.pattern.findall(text)),
        "weight": weight_of,
    }
    # Names of ours, and constants as ``repr`` writes them.
    exec(compile(f"def fill(m, tools):\n    {lines}\n", "<skeleton>", "exec"), names)  # noqa: S102
    fill: Fill = names["fill"]
    return fill


def _join(skeleton: Skeleton, start: Place, end: Place) -> str:
    """Write the text between two places."""
    parts = []
    for number in range(start.atom, end.atom + 1):
        atom = skeleton.atoms[number]
        if atom.source:
            parts.append(f"s{number}")
            continue
        last = end.offset if number == end.atom else len(atom.text)
        if literal := atom.text[start.offset if number == start.atom else 0 : last]:
            parts.append(repr(literal))
    if len(parts) > 1:
        return f"''.join(({', '.join(parts)}))"
    return parts[0] if parts else "''"


def _checks(skeleton: Skeleton, turn: PlacedTurn, done: Place) -> Iterator[str]:
    """Check that a turn's words came out, where its places do not show it."""
    arguments = f"m[{turn.turn}], {turn.turn}"
    if turn.content_end is not None:
        to_content = _join(skeleton, done, Place(turn.content_end, 0))
        yield f"check_content({arguments}, {to_content})"
    to_end = _join(skeleton, done, turn.stop)
    if turn.check_reasoning:
        yield f"check_reasoning({arguments}, {to_end})"
    if turn.check_calls:
        yield f"check_calls({arguments}, {to_end})"


def _slots(skeleton: Skeleton) -> Iterator[str]:
    for number, atom in enumerate(skeleton.atoms):
        if atom.source:
            source = atom.source if atom.clean else f"clean({atom.source})"
            yield f"s{number} = {source}"


def _guard(source: str, answer: Any) -> str:
    if answer is True:
        return f"if not ({source}): return None"
    if answer is False:
        return f"if {source}: return None"
    return f"if ({source}) != {answer!r}: return None"
