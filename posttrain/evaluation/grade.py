"""The grader of a task; no model and no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from posttrain.config.evaluation import (
    AnswerTask,
    ChoiceTask,
    ExactTask,
    FormulaTask,
    ReasoningTask,
)
from posttrain.grading.verdicts import Grade, Grader, GraderName, Verdict

UNANSWERED = Verdict(None, "none", None, None, "unanswered")
"""Where there is no text to grade."""


@contextlib.contextmanager
def open_grader(task: AnswerTask) -> Iterator[Grade]:
    """Give the function that grades a task's completions; some hold a process meanwhile.

    Raises:
        MissingExtraError: The task needs a package that is not installed.
    """
    if not isinstance(task, ReasoningTask):
        made = Grader("calls")
    else:
        name: GraderName = "number"
        if isinstance(task, FormulaTask):
            name = "formula"
        elif isinstance(task, ChoiceTask):
            name = "letter"
        elif isinstance(task, ExactTask):
            name = "words"
        made = Grader(
            name,
            task.grader_seconds,
            pattern=task.answer_pattern,
            ignore_case=isinstance(task, ExactTask) and task.ignore_case,
        )
    with made as grader:
        yield grader.grade


SCORES = {"bytes": "logprob_per_byte", "none": "logprob"}
"""``normalize`` of multiple choice by likelihood -> the score of an option that decides."""


def find_best(options: Sequence[dict[str, Any]], key: str) -> str:
    """Letter of the option with the highest score; of equal ones the first."""
    return str(max(options, key=lambda option: option[key])["letter"])
