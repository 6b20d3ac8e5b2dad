"""Where in a completion its final answer stands, so that a page can point at it."""

from __future__ import annotations

import re

from posttrain.grading.answers import find_boxes

Span = tuple[int, int]
"""First letter and the one behind the last, counted from 0."""

_CALL = re.compile(r"<tool_call>.*?(?:</tool_call>|\Z)", re.S)
_ANNOUNCED = re.compile(r"answer|答案|选", re.I)
_MOST_PARTS = 100
_AT_THE_FRONT = frozenset({"letter", "leading"})
# Their answer is told in a form of its own, and what it was read from is the whole text.
_REWRITTEN = frozenset({"json", "python", "broken", "likelihood", "harness", "none"})


def find_answer_spans(completion: str, answer: str | None, parse: str) -> list[Span]:
    """Find the places of a completion that its answer was read from.

    Args:
        completion: What the model wrote.
        answer: What was found in it; None where nothing was.
        parse: How it was found, see ``grading.answers`` and ``grading.tool_calls``.

    Returns:
        Places in the order of the text, none of them overlapping; empty where the answer does not
        stand in the text as it is.
    """
    if parse == "tag":
        return [found.span() for found in _CALL.finditer(completion)]
    if not answer or parse in _REWRITTEN:
        return []
    if parse == "boxed" and (boxes := _find_answer_boxes(completion, answer)):
        return boxes
    if parse in _AT_THE_FRONT:
        return _span_at(completion.find(answer), answer)
    start = 0
    if parse == "marker":
        start = max(completion.rfind("####"), 0)
    elif parse == "stated":
        # Behind the last word that announces an answer which stands behind it.
        places = [found.end() for found in _ANNOUNCED.finditer(completion)]
        last = completion.rfind(answer)
        start = max((place for place in places if place <= last), default=0)
    first = parse in ("marker", "stated") and start
    place = completion.find(answer, start) if first else completion.rfind(answer)
    return _span_at(place, answer)


def _span_at(place: int, answer: str) -> list[Span]:
    return [] if place < 0 else [(place, place + len(answer))]


def _find_answer_boxes(completion: str, answer: str) -> list[Span]:
    """The last box, or the last ones that hold the parts of the answer together."""
    taken: list[tuple[int, int, str]] = []
    for box in reversed(find_boxes(completion)[-_MOST_PARTS:]):
        taken.insert(0, box)
        if ", ".join(content for _, _, content in taken) == answer:
            return [(start, end) for start, end, _ in taken]
    return [(start, end) for start, end, _ in taken[-1:]]


def count_utf16(text: str, spans: list[Span]) -> list[Span]:
    """Count places as JavaScript does, where a letter beyond U+FFFF is two.

    Args:
        text: What the places are in.
        spans: Places in it, in letters.

    Returns:
        The same places in units of UTF-16.
    """
    if text.isascii():
        return spans

    def count(place: int) -> int:
        return len(text[:place].encode("utf-16-le", "surrogatepass")) // 2

    return [(count(start), count(end)) for start, end in spans]
