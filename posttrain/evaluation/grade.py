"""Verdicts on what a model wrote, by kind of task; no model and no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import regex

from posttrain.config.evaluation import (
    AnswerTask,
    ChoiceTask,
    ExactTask,
    FormulaTask,
    NumberTask,
    ReasoningTask,
)
from posttrain.grading.answers import (
    STRICT_PARSES,
    FoundAnswer,
    find_boxes,
    find_math_answer,
    find_numeric_answer,
)
from posttrain.grading.choices import find_letter
from posttrain.grading.equivalence import numbers_equal
from posttrain.grading.math import FormulaGrader
from posttrain.grading.tool_calls import accept_calls, match_calls, parse_tool_calls

# A task's own expression, and a line that is the answer and nothing else, are what is asked for.
_STRICT = STRICT_PARSES | {"pattern", "line"}
_STATED = regex.compile(r"(?:answer\s+is|answer\s*[:：]|答案是|答案[:：])\s*:?", regex.IGNORECASE)


@dataclass(frozen=True)
class Reference:
    """What an answer is graded against."""

    text: str
    """The right answer."""
    letters: str = ""
    """Of the options of multiple choice."""
    tools: tuple[dict[str, Any], ...] = ()
    expected: Any = None
    """Accepted calls."""


@dataclass(frozen=True)
class Verdict:
    """What grading says of a completion."""

    answer: str | None
    parse: str
    """How it was found; see ``grading.answers``, and ``pattern`` for a task's own expression."""
    correct: bool | None
    """None where it could not be graded."""
    strict: bool | None
    """The same, of answers in exactly the form that is asked for alone."""
    error: str | None
    """Class of the mistake; None where the answer is right."""


UNANSWERED = Verdict(None, "none", None, None, "unanswered")
"""Where there is no text to grade."""
Grader = Callable[[Reference, str, bool], Verdict]
"""Grades a text, knowing whether the model ended it by itself."""
_Judgement = Literal["equal", "different", "timeout"]


@contextlib.contextmanager
def open_grader(task: AnswerTask) -> Iterator[Grader]:
    """Give the function that grades a task's completions; some hold a process meanwhile.

    What goes wrong in grading one answer costs that answer alone: it is unscored, with the error
    ``grader_timeout`` or ``grader_error``.

    Raises:
        MissingExtraError: The task needs a package that is not installed.
    """
    if not isinstance(task, ReasoningTask):
        yield _guard(_grade_calls)
    elif isinstance(task, FormulaTask):
        with FormulaGrader(task.grader_seconds) as formulas:
            yield _guard(_Answers(task, formulas).grade)
    else:
        yield _guard(_Answers(task, None).grade)


SCORES = {"bytes": "logprob_per_byte", "none": "logprob"}
"""``normalize`` of multiple choice by likelihood -> the score of an option that decides."""


def find_best(options: Sequence[dict[str, Any]], key: str) -> str:
    """Letter of the option with the highest score; of equal ones the first."""
    return str(max(options, key=lambda option: option[key])["letter"])


def _guard(grade: Grader) -> Grader:
    def guarded(reference: Reference, text: str, finished: bool) -> Verdict:
        try:
            return grade(reference, text, finished)
        except TimeoutError:
            return Verdict(None, "none", None, None, "grader_timeout")
        except Exception:  # hostile texts find ways; the text is kept and can be graded again
            return Verdict(None, "none", None, None, "grader_error")

    return guarded


class _Answers:
    """Finds the final answer of a text, and holds it to the reference.

    Args:
        task: How.
        formulas: Of tasks whose answers are formulas.
    """

    def __init__(self, task: ReasoningTask, formulas: FormulaGrader | None) -> None:
        self._task = task
        self._formulas = formulas
        self._pattern = regex.compile(task.answer_pattern) if task.answer_pattern else None

    def grade(self, reference: Reference, text: str, finished: bool) -> Verdict:
        """Grade one text."""
        found = self._find(text, reference)
        # The last formula of a text that was cut off is no answer, whatever it equals.
        if self._formulas and not finished and found.parse == "last_expression":
            found = FoundAnswer(None, "none")
        if found.text is None:
            error = "no_answer" if finished else "truncated"
            return Verdict(None, found.parse, False, False, error)
        judged = self._judge(found.text, reference.text)
        if judged == "timeout":
            return Verdict(found.text, found.parse, None, None, "grader_timeout")
        if judged == "different":
            error = "wrong" if finished else "truncated"
            return Verdict(found.text, found.parse, False, False, error)
        return Verdict(found.text, found.parse, True, found.parse in _STRICT, None)

    def _find(self, text: str, reference: Reference) -> FoundAnswer:
        if self._pattern:
            matches = list(self._pattern.finditer(text, timeout=self._task.grader_seconds))
            if not matches:
                return FoundAnswer(None, "none")
            last = matches[-1]
            return FoundAnswer((last[1] if last.groups() else last[0]) or "", "pattern")
        if self._formulas:
            return find_math_answer(text)
        if isinstance(self._task, ChoiceTask):
            return find_letter(text, reference.letters)
        return _find_words(text) if isinstance(self._task, ExactTask) else find_numeric_answer(text)

    def _judge(self, answer: str, reference: str) -> _Judgement:
        if self._formulas:
            return self._formulas.judge(answer, reference)
        if isinstance(self._task, NumberTask):
            equal = numbers_equal(answer, reference)
        elif isinstance(self._task, ExactTask):
            ways = [_normalize(text, self._task.ignore_case) for text in (answer, reference)]
            equal = ways[0] == ways[1]
        else:
            equal = answer == reference
        return "equal" if equal else "different"


def _find_words(text: str) -> FoundAnswer:
    """Take the last box, what stands behind the last "Answer:", or the whole of a short text."""
    if boxes := find_boxes(text):
        return FoundAnswer(boxes[-1][2], "boxed")
    if stated := list(_STATED.finditer(text)):
        answer = text[stated[-1].end() :].strip().partition("\n")[0].strip(" *_`")
        return FoundAnswer(answer, "stated") if answer else FoundAnswer(None, "none")
    lines = [line for line in text.splitlines() if line.strip()]
    return FoundAnswer(lines[0].strip(), "line") if len(lines) == 1 else FoundAnswer(None, "none")


def _normalize(text: str, ignore_case: bool) -> str:
    words = " ".join(text.split())
    return words.rstrip(".").casefold() if ignore_case else words


def _grade_calls(reference: Reference, text: str, finished: bool) -> Verdict:
    expected = reference.expected
    parsed = parse_tool_calls(text, reference.tools)
    accepted = accept_calls(expected["calls"], reference.tools, expected["possible"])
    shown = "\n".join(
        f"{call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})"
        for call in parsed.calls
    )
    error = match_calls(parsed.calls, accepted)
    if parsed.parse == "broken":
        # Where no call is expected, a broken one is a call all the same.
        error = "unparsable" if accepted else "unexpected_call"
    if error and not finished:
        error = "truncated"
    return Verdict(shown or None, parsed.parse, error is None, error is None, error)
