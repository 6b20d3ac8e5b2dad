r"""Find the final answer in what a model wrote, and say how it was found.

Ways, strictest first: behind the last ``####`` or in the last ``\boxed{}``, behind the words "the
answer is", else the last number or formula of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# 1,234.5 | 1234.5 | .5; a comma groups exactly three digits.
_UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
# A dash after a letter, digit or bracket is a hyphen or minus between terms, no sign. A fraction
# is taken whole: its numerator is not the answer.
_NUMBER = re.compile(rf"(?:(?<![\w)\]])[-+−][$€£¥]?)?{_UNSIGNED}(?:/{_UNSIGNED})?")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_WORD = re.compile(r"[^\s$\\,;]+")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\w])")
# Between the boxes of an answer in several parts: "$\boxed{1}$ and $x = \boxed{2}$".
_BETWEEN_PARTS = re.compile(
    r"[\s$,;.]*(?:\\\)|\\\])?\s*(?:,|and|or|,\s*and)[\s$]*(?:\\\(|\\\[)?\s*"
    r"(?:\w{1,2}\s*=\s*)?"
)
_STATED = re.compile(
    r"(?:final answer is|answer is|answer\s*:|答案是|答案为|答案[:：])\s*:?\s*", re.I
)
_AFTERWORD = re.compile(r"(?:\.\s+|\s+)I hope\b.*|\.\s+(?=[A-Z]).*|。.*", re.S)
_FORMULA = re.compile(
    r"\$\$(?P<a>.+?)\$\$|\$(?P<b>[^$]+)\$|\\\((?P<c>.+?)\\\)|\\\[(?P<d>.+?)\\\]", re.S
)
# What stands beside a number in a box.
_BESIDE = re.compile(r"\\(?:text|mbox|mathrm|textbf)\s*\{[^{}]*\}|\\[!,;: $%]|[{}$]")
STRICT_PARSES = frozenset({"marker", "boxed", "tag", "letter"})
"""Ways of answering in exactly the form that is asked for."""


@dataclass(frozen=True)
class FoundAnswer:
    """An answer and its provenance."""

    text: str | None
    """The answer as written, or None."""
    parse: str
    """``marker``: behind the last ``####``; ``boxed``: in the last box; ``stated``: behind "the
    answer is"; ``last_number`` and ``last_expression``: the last one of the text; ``letter``,
    ``leading``: see ``grading.choices``; ``none``: there is no answer."""


def find_numeric_answer(completion: str) -> FoundAnswer:
    r"""Find the final number of a worked solution.

    The number after the last ``####`` is the answer, or that in the last ``\boxed{}``, or that
    behind the last "Answer:" or "the answer is". Without any, the last number of the text is taken
    and reported as such, so that strict and flexible scores can both be told.

    Args:
        completion: What the model wrote.

    Returns:
        The answer with its parse status.
    """
    _, marker, after = completion.rpartition("####")
    if marker:
        found = _NUMBER.search(after.partition("\n")[0])
        return FoundAnswer(found[0], "marker") if found else FoundAnswer(None, "none")
    if boxes := find_boxes(completion):
        content = boxes[-1][2]
        numbers = _NUMBER.findall(_BESIDE.sub("", content))
        if numbers:
            # A formula such as \frac{1}{2} is no number, and neither of its numbers is the answer.
            return FoundAnswer(content if "\\frac" in content else numbers[-1], "boxed")
    if stated := list(_STATED.finditer(completion)):
        line = completion[stated[-1].end() :].partition("\n")[0]
        # "The answer is 3 + 4 = 7 of the 12": what it comes to, not what stands around it.
        if found := _NUMBER.search(_AFTERWORD.sub("", line).rpartition("=")[2]):
            return FoundAnswer(found[0], "stated")
    numbers = _NUMBER.findall(completion)
    return FoundAnswer(numbers[-1], "last_number") if numbers else FoundAnswer(None, "none")


def find_math_answer(completion: str) -> FoundAnswer:
    r"""Find the final formula of a worked solution.

    Args:
        completion: What the model wrote.

    Returns:
        The answer with its parse status: the last ``\boxed{}`` (neighbouring boxes joined by a
        comma) or the last "the answer is", whichever comes later; then the last formula or number.
    """
    boxes = find_boxes(completion)
    stated = list(_STATED.finditer(completion))
    if boxes and (not stated or stated[-1].start() < boxes[-1][1]):
        return FoundAnswer(_join_parts(completion, boxes), "boxed")
    if stated:
        line = completion[stated[-1].end() :].partition("\n")[0]
        if answer := _AFTERWORD.sub("", line).strip().rstrip(".").strip("*").strip():
            return FoundAnswer(_inner_formulas(answer), "stated")
    _, marker, after = completion.rpartition("####")
    if marker and (line := after.strip().partition("\n")[0].strip()):
        return FoundAnswer(line, "marker")
    if _is_bare(completion.strip()):
        return FoundAnswer(_inner_formulas(completion.strip()), "last_expression")
    ends = [(m.end(), m[m.lastgroup or 0]) for m in _FORMULA.finditer(completion)]
    ends += [(m.end(), m[0]) for m in _NUMBER.finditer(completion)]
    return (
        FoundAnswer(max(ends)[1].strip(), "last_expression") if ends else FoundAnswer(None, "none")
    )


def _is_bare(text: str) -> bool:
    """Whether a text is an answer and nothing else: one short line that is no sentence."""
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\(?:begin|end)\{\w+\}|\\[a-zA-Z]+", " ", text))
    return 0 < len(text) <= 200 and "\n" not in text and len(words) <= 2


def find_boxes(text: str) -> list[tuple[int, int, str]]:
    r"""Find every ``\boxed{...}`` and ``\fbox{...}`` whose braces are balanced.

    Args:
        text: LaTeX in prose.

    Returns:
        Start, end and content of each, outer boxes only, in order; ``\boxed 7`` counts as well.
    """
    closing = _match_braces(text)
    boxes: list[tuple[int, int, str]] = []
    for found in _BOX.finditer(text):
        start = found.end()
        if boxes and found.start() < boxes[-1][1]:
            continue
        if text[start] != "{":
            word = _WORD.match(text, start)
            if word:
                boxes.append((found.start(), word.end(), word[0].rstrip(".")))
        elif start in closing:
            end = closing[start]
            boxes.append((found.start(), end + 1, text[start + 1 : end].strip()))
    return boxes


def _match_braces(text: str) -> dict[int, int]:
    """Place of each opening brace that is closed -> place of its closing brace."""
    opened: list[int] = []
    closing = {}
    for found in _BRACE.finditer(text):
        if found[0] == "{":
            opened.append(found.start())
        elif found[0] == "}" and opened:
            closing[opened.pop()] = found.start()
    return closing


def _join_parts(text: str, boxes: list[tuple[int, int, str]]) -> str:
    parts = [boxes[-1][2]]
    for before, after in zip(reversed(boxes[:-1]), reversed(boxes[1:]), strict=True):
        if not _BETWEEN_PARTS.fullmatch(text, before[1], after[0]):
            break
        parts.insert(0, before[2])
    return ", ".join(parts)


def _inner_formulas(answer: str) -> str:
    """Take the formulas out of "the answer is $x$ metres"; words alone stay."""
    found = [match[match.lastgroup or 0].strip() for match in _FORMULA.finditer(answer)]
    return ", ".join(found) or answer
