"""Where a conversation that is too long may be cut: between exchanges, never within a turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from posttrain.data.records import Message

T = TypeVar("T")


def find_breaks(messages: Sequence[Message]) -> list[int]:
    """Find the user turns that follow an answer: what goes before them is whole exchanges."""
    roles = [message["role"] for message in messages]
    asked = roles.index("user") if "user" in roles else len(roles)
    return [
        place
        for place in range(asked + 1, len(roles))
        if roles[place] == "user" and roles[place - 1] == "assistant"
    ]


def split_head(messages: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Part the system turn, which every part of a conversation keeps, from the others."""
    head = 1 if messages and messages[0]["role"] == "system" else 0
    return tuple(messages[:head]), tuple(messages[head:])


def hides_reasoning(messages: Sequence[Message]) -> bool:
    """Whether a template may render fewer messages longer: of the last answers it shows reasoning.

    Templates such as Qwen3's leave it out of earlier answers, also where it stands in the text.
    """
    return any(m.get("reasoning_content") or "</think>" in str(m["content"]) for m in messages)


def find_longest(
    count: int, make: Callable[[int], T | None], *, rising: bool = True
) -> tuple[int, T | None]:
    """Find the longest of some candidates that fits, trying few.

    Args:
        count: Number of candidates, from short to long.
        make: Makes a candidate, counted from 0; None where it does not fit.
        rising: Whether no candidate fits that is longer than one that does not; else as many are
            tried, from the longest on, as it takes.

    Returns:
        Number of the candidate and what was made of it; -1 and None where none fits.
    """
    best: tuple[int, T | None] = (-1, None)
    if not rising:
        tried = ((place, make(place)) for place in reversed(range(count)))
        return next((found for found in tried if found[1] is not None), best)
    low, high, step = 0, count, 1  # the first that does not fit is among low..high
    while low < high:
        # Steps grow while all fits; then the rest is halved.
        place = min(low + step - 1, high - 1) if high == count else (low + high) // 2
        made = make(place)
        if made is None:
            high = place
        else:
            best, low, step = (place, made), place + 1, step * 2
    return best
