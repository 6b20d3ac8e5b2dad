"""One path from a completion to its verdict: evaluation, regrading and rewards all take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from posttrain.grading.answers import (
    STRICT_PARSES,
    FoundAnswer,
    find_math_answer,
    find_numeric_answer,
    find_words,
    read_reference,
)
from posttrain.grading.choices import find_letter
from posttrain.grading.equivalence import formulas_equal
from posttrain.grading.numbers import numbers_equal, parse_number
from posttrain.grading.tool_calls import accept_calls, match_calls, parse_tool_calls

if TYPE_CHECKING:
    from posttrain.grading.math import FormulaGrader

GraderName = Literal["number", "formula", "letter", "words", "calls", "answer"]
"""``number``: exact numeric equality; ``formula``: equal formulas, with algebra; ``letter``: one of
several options; ``words``: the same text; ``calls``: function calls; ``answer``: a number where the
reference is one, else a formula without algebra, for rewards, which must not wait for a process."""
# Of a text that was cut off, these are the last thing before the cut and no answer.
_OPEN_PARSES = frozenset({"bare", "last_number", "last_expression"})


@dataclass(frozen=True)
class Reference:
    """What an answer is graded against."""

    text: str
    """The right answer."""
    letters: str = ""
    """Of the options of multiple choice."""
    tools: tuple[dict[str, Any], ...] = ()
    """Declarations of the functions that may be called."""
    expected: Any = None
    """The right calls: ``calls``, each ``name`` and ``arguments``, and ``possible``, accepted
    values as BFCL writes them."""


@dataclass(frozen=True)
class Verdict:
    """What grading says of a completion."""

    answer: str | None
    """What was found to be the final answer."""
    parse: str
    """How it was found; see ``grading.answers``, ``grading.choices`` and ``grading.tool_calls``;
    ``pattern``: by a task's own expression."""
    correct: bool | None
    """The flexible verdict: right, wherever it was found. None where it could not be graded."""
    strict: bool | None
    """Right, and given in a form that is asked for."""
    error: str | None
    """Why it is not right, None where it is. ``wrong``: another answer, given in a form asked
    for; ``format``: nothing was given in such a form, and what else was found is not right;
    ``no_answer``; ``truncated``: cut off before it was done; ``grader_timeout`` and
    ``grader_error``: the comparison was given up, or broke; of calls, see
    ``grading.tool_calls``."""


Grade = Callable[[Reference, str, bool], Verdict]
"""Grades a text, knowing whether the model ended it by itself."""


class Grader:
    """Grades completions of one kind; to be used in a ``with`` block.

    Args:
        name: How to grade.
        seconds: Longest time for one comparison of formulas, and for one search by ``pattern``.
        pattern: A regular expression that finds the answer instead: its first group in the last
            match, or the whole match.
        ignore_case: Of ``words``: whether capitals and a period at the end do not count.

    Raises:
        MissingExtraError: ``formula``, and math-verify is not installed.
    """

    def __init__(
        self,
        name: GraderName,
        seconds: float = 10.0,
        *,
        pattern: str | None = None,
        ignore_case: bool = False,
    ) -> None:
        self.name = name
        self._seconds = seconds
        self._ignore_case = ignore_case
        self._pattern: Any = None
        self._formulas: FormulaGrader | None = None
        # Rewards go to verl as files, without packages and without what starts a process.
        if pattern:
            import regex

            self._pattern = regex.compile(pattern)
        if name == "formula":
            from posttrain.grading.math import FormulaGrader

            self._formulas = FormulaGrader(seconds)

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *error: object) -> None:
        if self._formulas:
            self._formulas.close()

    def grade(self, reference: Reference, text: str, finished: bool = True) -> Verdict:
        """Find the final answer of a completion, and compare it.

        What goes wrong in that costs this answer alone: it is unscored.

        Args:
            reference: What it is graded against.
            text: What the model wrote; any text at all.
            finished: Whether the model ended it; the last number of a text that was cut off is no
                answer.

        Returns:
            The verdict.
        """
        try:
            if self.name == "calls":
                return _grade_calls(reference, text, finished)
            return self._grade_answer(reference, text, finished)
        except TimeoutError:
            return Verdict(None, "none", None, None, "grader_timeout")
        except Exception:  # hostile texts find ways; the text is kept and can be graded again
            return Verdict(None, "none", None, None, "grader_error")

    def _grade_answer(self, reference: Reference, text: str, finished: bool) -> Verdict:
        thoughts, closed, answered = text.rpartition("</think>")
        # What is thought about is no answer, unless it is all there is.
        answered = answered if answered.strip() or not closed else thoughts
        found = FoundAnswer(None, "none")
        if closed or "<think>" not in text:
            found = self._find(reference, answered)
        if not finished and found.parse in _OPEN_PARSES and self.name not in ("letter", "words"):
            found = FoundAnswer(None, "none")
        if found.text is None:
            return Verdict(
                None, found.parse, False, False, "no_answer" if finished else "truncated"
            )
        judged = self._judge(found.text, reference.text)
        in_form = found.parse in STRICT_PARSES
        if judged in ("timeout", "error"):
            return Verdict(found.text, found.parse, None, None, f"grader_{judged}")
        if judged == "equal":
            return Verdict(found.text, found.parse, True, in_form, None)
        error = ("wrong" if in_form else "format") if finished else "truncated"
        return Verdict(found.text, found.parse, False, False, error)

    def _find(self, reference: Reference, text: str) -> FoundAnswer:
        if self._pattern:
            matches = list(self._pattern.finditer(text, timeout=self._seconds))
            if not matches:
                return FoundAnswer(None, "none")
            last = matches[-1]
            return FoundAnswer((last[1] if last.groups() else last[0]) or "", "pattern")
        if self.name == "letter":
            return find_letter(text, reference.letters)
        if self.name == "words":
            return find_words(text)
        if self._is_number(reference.text):
            return find_numeric_answer(text)
        if text.strip() == reference.text.strip() != "":
            return FoundAnswer(text.strip(), "bare")
        return find_math_answer(text)

    def _judge(self, answer: str, reference: str) -> str:
        if self._formulas:
            return self._formulas.judge(answer, read_reference(reference))
        if self.name == "letter":
            equal = answer == reference
        elif self.name == "words":
            ways = [_normalize_words(text, self._ignore_case) for text in (answer, reference)]
            equal = ways[0] == ways[1]
        elif self._is_number(reference) and parse_number(answer) is not None:
            equal = numbers_equal(answer, reference)
        else:
            # A formula such as \\frac{10}{2} has one exact value, too.
            equal = formulas_equal(answer, read_reference(reference))
        return "equal" if equal else "different"

    def _is_number(self, reference: str) -> bool:
        return self.name == "number" or (
            self.name == "answer" and parse_number(reference) is not None
        )


def _normalize_words(text: str, ignore_case: bool) -> str:
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
