r"""Find the final answer in what a model wrote, and say how it was found.

Ways, strictest first: behind the last ``####`` or in the last ``\boxed{}``, behind the words "the
answer is", else the last number or formula of the text.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from posttrain.grading.normalization import split_unit

# 1,234.5 | 1234.5 | .5; a comma groups exactly three digits.
# The bound on groups keeps the search linear in the length of the text, as all bounds below do.
_UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3}){1,8}(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
# A dash after a letter, digit or bracket is a hyphen or minus between terms, no sign. A fraction
# is taken whole: its numerator is not the answer.
_NUMBER = re.compile(rf"(?:(?<![\w)\]])[-+−][$€£¥]?)?{_UNSIGNED}(?:/{_UNSIGNED})?")
# Behind a number, what makes it a part of the answer: "12 or 13", "3, 4.", "2^10".
_MORE = re.compile(rf"[\s$*]*(?:(?:,|,?\s*(?:or|and)\b)[\s$*]*{_UNSIGNED}[\s$*.]*$|\^)")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_WORD = re.compile(r"[^\s$\\,;]+")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\w])")
# Between the boxes of an answer in several parts: "$\boxed{1}$ and $x = \boxed{2}$".
_BETWEEN_PARTS = re.compile(
    r"(?:[\s$.;]|\\\)|\\\]|\\q?quad|\\[, ;])*"
    r"(?:,|(?:,\s*)?(?:\\text\s*\{\s*)?(?:and|or)(?![a-zA-Z])\s*\}?)"
    r"(?:[\s$]|\\\(|\\\[|\\q?quad|\\[, ;])*(?:[a-zA-Z]\w?(?:_\{?\w\}?)?\s*=\s*)?"
)
_LONGEST_GAP = 60
_MOST_PARTS = 100
_LONGEST_LINE = 2000
_STATED = re.compile(
    r"(?:final answer is|answer is|answer\*{0,2}\s*:|答案是|答案为|答案[:：])\s*:?[\s*]*", re.I
)
_AFTERWORD = re.compile(r"(?:\.\s+|\s+)I hope\b.*|\.\s+(?=[A-Z]).*|。.*", re.S)
_DIGIT = re.compile(r"\d")
_DELIMITER = re.compile(r"\\\$|\$\$?|\\[()\[\]]")
_CLOSERS = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}
# What may stand between the formulas of a reference: "$1$ and $2$".
_JOINTS = re.compile(r"(?:and|or|[\s,.;])*")
# What stands beside a number in a box.
_BESIDE = re.compile(r"\\(?:text|mbox|mathrm|textbf)\s*\{[^{}]*\}|\^?\\circ|\\[!,;: $%]|[{}$]")
STRICT_PARSES = frozenset({"marker", "boxed", "stated", "bare", "letter", "leading", "pattern"})
"""Ways of answering in a form that is asked for: the answer is marked as such, or stands alone."""


@dataclass(frozen=True)
class FoundAnswer:
    """An answer and its provenance."""

    text: str | None
    """The answer as written, or None."""
    parse: str
    """``marker``: behind the last ``####``; ``boxed``: in the last box; ``stated``: behind "the
    answer is"; ``bare``: it is the whole text; ``last_number`` and ``last_expression``: the last
    one of the text; ``letter``, ``leading``: see ``grading.choices``; ``none``: there is no
    answer."""


def find_numeric_answer(completion: str) -> FoundAnswer:
    r"""Find the final number of a worked solution.

    The number after the last ``####`` is the answer, or that in the last ``\boxed{}``, where it
    stands behind or there is no ``####``, or that behind the last "Answer:" or "the answer is".
    Without any, the last number of the text is taken and reported as such, so that strict and
    flexible scores can both be told.

    Args:
        completion: What the model wrote.

    Returns:
        The answer with its parse status; a formula where one is marked as the answer.
    """
    before, marker, after = completion.rpartition("####")
    boxes = find_boxes(completion)
    # "#### Step 2" is a heading where a box follows.
    if marker and not (boxes and boxes[-1][0] > len(before)):
        found = _find_number(_line_from(after, 0))
        return FoundAnswer(found, "marker" if found else "none")
    if boxes:
        content = boxes[-1][2]
        value = _BESIDE.sub("", content).rpartition("=")[2]
        numbers = _NUMBER.findall(value)
        if len(numbers) == 1 and not set(value) & set("\\^*+"):
            return FoundAnswer(numbers[0], "boxed")
        if numbers:
            # None of the numbers of \frac{1}{2}, 32\sqrt{2}, 9b + 8 or "3 and 4" is the answer.
            return FoundAnswer(content, "boxed")
    if stated := list(_STATED.finditer(completion)):
        line = _AFTERWORD.sub("", _line_from(completion, stated[-1].end()))
        # "The answer is 3 + 4 = 7 of the 12": what it comes to, not what stands around it.
        value = line.rpartition("=")[2]
        if "\\" in _BESIDE.sub("", value) and (formulas := find_formulas(line)):
            return FoundAnswer(formulas[-1][1], "stated")
        if found := _find_number(value):
            return FoundAnswer(found, "stated")
    numbers = _NUMBER.findall(completion)
    if not numbers:
        return FoundAnswer(None, "none")
    alone = completion.strip(" \n*$.%") == numbers[-1].lstrip("$")
    return FoundAnswer(numbers[-1], "bare" if alone else "last_number")


def _find_number(line: str) -> str | None:
    """Take the first number of a line; of several that are given as the answer all."""
    found = _NUMBER.search(line)
    if found and _MORE.match(line, found.end()):
        return line[found.start() :].strip(" $*.\r")
    return found[0] if found else None


def find_math_answer(completion: str) -> FoundAnswer:
    r"""Find the final formula of a worked solution.

    Args:
        completion: What the model wrote.

    Returns:
        The answer with its parse status: the last ``\boxed{}`` (neighbouring boxes joined by a
        comma) or the last "the answer is", whichever comes later; then what is behind ``####``; the
        whole text, where it is short; the last formula or number.
    """
    boxes = find_boxes(completion)
    stated = list(_STATED.finditer(completion))
    if boxes and (not stated or stated[-1].start() < boxes[-1][1]):
        return FoundAnswer(join_parts(completion, boxes), "boxed")
    if stated:
        line = _line_from(completion, stated[-1].end())
        if answer := _AFTERWORD.sub("", line).strip().rstrip(".").strip("*").strip():
            return FoundAnswer(_inner_formulas(_value_of(answer)), "stated")
    _, marker, after = completion.rpartition("####")
    if marker and (line := _line_from(after.lstrip(), 0).strip()):
        return FoundAnswer(line, "marker")
    if _is_bare(completion.strip()):
        return FoundAnswer(_inner_formulas(completion.strip()), "bare")
    ends = find_formulas(completion)
    ends += [(m.end(), m[0]) for m in _NUMBER.finditer(completion)]
    return (
        FoundAnswer(max(ends)[1].strip(), "last_expression") if ends else FoundAnswer(None, "none")
    )


def find_words(completion: str) -> FoundAnswer:
    """Find an answer in words.

    Args:
        completion: What the model wrote.

    Returns:
        The last box, what stands behind the last "Answer:" or "the answer is", or the whole of a
        text of one line.
    """
    if boxes := find_boxes(completion):
        return FoundAnswer(boxes[-1][2], "boxed")
    if stated := list(_STATED.finditer(completion)):
        answer = _line_from(completion, stated[-1].end()).strip(" *_`\r")
        return FoundAnswer(answer, "stated") if answer else FoundAnswer(None, "none")
    lines = [line for line in completion.splitlines() if line.strip()]
    return FoundAnswer(lines[0].strip(), "bare") if len(lines) == 1 else FoundAnswer(None, "none")


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


def join_parts(text: str, boxes: list[tuple[int, int, str]]) -> str:
    """Join the contents of the last boxes that stand side by side: an answer in several parts."""
    boxes = boxes[-_MOST_PARTS:]
    parts = [boxes[-1][2]]
    for before, after in zip(reversed(boxes[:-1]), reversed(boxes[1:]), strict=True):
        gap = text[before[1] : after[0]] if after[0] - before[1] <= _LONGEST_GAP else ""
        if not _BETWEEN_PARTS.fullmatch(gap):
            break
        parts.insert(0, before[2])
    return ", ".join(parts)


def find_formulas(text: str) -> list[tuple[int, str]]:
    r"""Find formulas between ``$``, ``$$``, ``\(\)`` and ``\[\]``.

    Returns:
        End and content of each, in order; what is opened and never closed is none.
    """
    found: list[tuple[int, str]] = []
    last = {closer: text.rfind(closer) for closer in _CLOSERS.values()}
    opened, start = "", 0
    for match in _DELIMITER.finditer(text):
        sign = match[0]
        if opened and sign == _CLOSERS[opened]:
            content = text[start : match.start()].strip()
            if content:
                found.append((match.end(), content))
            opened = ""
        elif opened in ("", sign) and last.get(_CLOSERS.get(sign, ""), -1) > match.start():
            opened, start = sign, match.end()
    return found


def _line_from(text: str, start: int) -> str:
    return text[start : start + _LONGEST_LINE].partition("\n")[0]


def _value_of(answer: str) -> str:
    """What "the largest $n$ is 34" says; "5, which is odd" stays."""
    named, verb, value = answer.rpartition(" is ")
    return value if verb and _DIGIT.search(value) and not _DIGIT.search(named) else answer


def _inner_formulas(answer: str) -> str:
    """Take the formulas out of "the answer is $x$ metres"; words alone stay."""
    return ", ".join(content for _, content in find_formulas(answer)) or answer


@functools.lru_cache(maxsize=1024)
def read_reference(text: str) -> str:
    r"""Take the answer out of a reference: what is in its boxes, or between its dollar signs.

    Args:
        text: A bare formula, a formula between dollar signs, or a whole solution.

    Returns:
        The formula; the text itself where it is none of that.
    """
    if boxes := find_boxes(text):
        return join_parts(text, boxes)
    formulas = find_formulas(text[:_LONGEST_LINE])
    rest = text
    for _, content in formulas:
        rest = rest.replace(content, "", 1)
    words = split_unit("1 " + _DELIMITER.sub("", rest).strip())[0].removeprefix("1")
    if formulas and _JOINTS.fullmatch(words):
        return ", ".join(content for _, content in formulas)
    return text
