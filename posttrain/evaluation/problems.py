"""Rows of evaluation files -> problems. Every row must be usable: an evaluation leaves none out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from posttrain.config.data import SourceConfig
from posttrain.config.evaluation import ProblemTask
from posttrain.data.formats.choice import Choice, convert_choice, read_choice
from posttrain.data.records import Message, Origin, Row, RowError, describe_reject
from posttrain.data.sources import open_rows, read_source
from posttrain.errors import DataError
from posttrain.grading.answers import find_boxes
from posttrain.grading.verdicts import Reference

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Problem:
    """What a model is asked, and what its answer is graded against."""

    origin: Origin
    messages: tuple[Message, ...]
    reference: str
    """The right answer, to read and to compare."""
    tools: tuple[dict[str, Any], ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    """What sub-scores are made by, such as ``level``."""
    expected: Any = None
    """What else grading needs: accepted calls."""
    choice: Choice | None = None
    solution: str = ""
    """The right answer as a model could write it, with the row's own reasoning."""
    row: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """As it was read."""
    cluster: str | None = None
    """What several problems share, such as a text that they ask about."""

    @property
    def graded_by(self) -> Reference:
        """What an answer is graded against."""
        letters = self.choice.letters if self.choice else ""
        return Reference(self.reference, letters, self.tools, self.expected)


def name_origins(origins: Iterable[Origin]) -> list[str]:
    """Give every row a name by which two evaluations of one file are paired.

    The file's name without its folder, so that the same problems pair up on any machine, and the
    line; rows that share a line, as in a JSON array, are numbered.
    """
    names: list[str] = []
    seen: Counter[str] = Counter()
    for origin in origins:
        name = f"{Path(origin.file).name}:{origin.line}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def read_problems(task: ProblemTask, source: SourceConfig | None = None) -> list[Problem]:
    """Read the problems of a task that has right answers.

    Args:
        task: Its kind, and what sub-scores and clusters are made by.
        source: Other rows of the same kind, such as solved examples.

    Raises:
        DataError: A row is unusable, or lacks a field that the task names.
    """
    found = _READERS[str(getattr(task, "kind", ""))](source or task.data)
    if source is not None:
        return found
    return [_complete(problem, task) for problem in found]


def _complete(problem: Problem, task: ProblemTask) -> Problem:
    def look_up(name: str) -> str:
        if name not in problem.row:
            raise DataError(
                f"{problem.origin}: no field `{name}` for `groups` or `cluster`",
                hint=f"the row has: {', '.join(problem.row)}",
            )
        return str(problem.row[name])

    groups = {name: look_up(field) for name, field in task.groups.items()}
    cluster = look_up(task.cluster) if task.cluster else problem.cluster
    return replace(problem, groups={**problem.groups, **groups}, cluster=cluster)


def read_gsm8k(source: SourceConfig) -> list[Problem]:
    """Read word problems in any format that states a reference answer.

    Raises:
        DataError: Names the first row that is unusable or has no reference.
    """
    problems = []
    for origin, chat, row in _read_chats(source):
        if chat.reference is None:
            raise DataError(
                f"{origin}: no reference answer to grade against",
                hint="a task of this kind needs rows in the gsm8k format",
            )
        last = chat.messages[-1]
        solution = str(last["content"]) if last["role"] == "assistant" else chat.reference
        problems.append(Problem(origin, chat.prompt, chat.reference, solution=solution, row=row))
    return problems


def read_math(source: SourceConfig) -> list[Problem]:
    r"""Read rows {problem, solution or answer, level, subject or type}.

    The reference is the last balanced ``\boxed{}`` of the solution, else the answer.

    Raises:
        DataError: Names the first row that is unusable.
    """
    return _convert(source, _read_math_row)


def _read_math_row(origin: Origin, row: Row) -> Problem:
    problem = row.get("problem", row.get("question"))
    if not isinstance(problem, str) or not problem.strip():
        raise RowError("no `problem`")
    boxes = find_boxes(str(row.get("solution") or ""))
    answer = row.get("answer")
    reference = boxes[-1][2] if boxes else "" if answer is None else str(answer).strip()
    if not reference:
        raise RowError("no reference answer", "neither a box in `solution` nor `answer`")
    names = (("level", "level"), ("subject", "subject"), ("type", "subject"))
    groups = {name: str(row[key]) for key, name in names if row.get(key) not in (None, "")}
    prompt: Message = {"role": "user", "content": problem.strip()}
    solution = str(row.get("solution") or reference).strip()
    return Problem(origin, (prompt,), reference, groups=groups, solution=solution, row=row)


def read_questions(source: SourceConfig) -> list[Problem]:
    """Read rows {problem or question, answer}, whose answer is a word or name.

    Raises:
        DataError: Names the first row that is unusable.
    """
    return _convert(source, _read_question_row)


def _read_question_row(origin: Origin, row: Row) -> Problem:
    question, answer = row.get("problem", row.get("question")), row.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise RowError("no `question`")
    if not isinstance(answer, str | int | float) or not str(answer).strip():
        raise RowError("no `answer`")
    prompt: Message = {"role": "user", "content": question.strip()}
    reference = str(answer).strip()
    return Problem(origin, (prompt,), reference, solution=reference, row=row)


def read_choices(source: SourceConfig) -> list[Problem]:
    """Read multiple-choice rows: AGIEval, ARC, our own sample rows, or {question, options, answer}.

    Raises:
        DataError: Names the first row that is unusable.
    """
    return _convert(source, _read_choice_row)


def _read_choice_row(origin: Origin, row: Row) -> Problem:
    choice = read_choice(row)
    keys = ("subject", "standard", "skill", "difficulty", "grade")
    groups = {k: str(row[k]) for k in keys if isinstance(row.get(k), str | int) and row[k] != ""}
    prompt: Message = {"role": "user", "content": choice.text}
    letter = choice.letters[choice.right]
    cluster = hashlib.sha256(choice.passage.encode()).hexdigest()[:12] if choice.passage else None
    return Problem(
        origin,
        (prompt,),
        letter,
        groups=groups,
        choice=choice,
        solution=str(convert_choice(row).messages[-1]["content"]),
        row=row,
        cluster=cluster,
    )


def read_tool_problems(source: SourceConfig) -> list[Problem]:
    """Read conversations with tools whose last calling turn is the reference.

    In a conversation without calls, the right answer is to call nothing. A field ``ground_truth``
    or ``possible_answer`` lists accepted values, as in BFCL.

    Raises:
        DataError: Names the first row that is unusable.
    """
    problems = []
    for origin, chat, row in _read_chats(source):
        turns = [i for i, m in enumerate(chat.messages) if m["role"] == "assistant"]
        calling = [i for i in turns if chat.messages[i].get("tool_calls")]
        if not turns or not chat.tools:
            raise DataError(
                f"{origin}: no {'tools' if turns else 'assistant turn to compare with'}",
                hint="a task of this kind needs conversations with `tools`",
            )
        turn = calling[-1] if calling else turns[-1]
        calls = [call["function"] for call in chat.messages[turn].get("tool_calls", ())]
        possible = row.get("ground_truth") or row.get("possible_answer")
        if possible is not None and not _is_possible(possible):
            raise DataError(
                f"{origin}: `ground_truth` is not a list of {{function: {{argument: [values]}}}}",
                hint="write accepted values as BFCL does",
            )
        reference = "\n".join(f"{c['name']}({_show(c.get('arguments'))})" for c in calls)
        expected = {"calls": calls, "possible": possible}
        problems.append(
            Problem(origin, chat.messages[:turn], reference, chat.tools, expected=expected, row=row)
        )
    return problems


def _is_possible(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(call, dict)
        and all(
            isinstance(arguments, dict) and all(isinstance(v, list) for v in arguments.values())
            for arguments in call.values()
        )
        for call in value
    )


def _show(arguments: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in (arguments or {}).items())


def _read_chats(source: SourceConfig) -> Iterator[tuple[Origin, Any, Row]]:
    """Yield origin, conversation and row; the first reject stops the evaluation."""
    found = read_source(source)
    if found.rejects:
        first = found.rejects[0]
        raise _unusable(first.origin, first.reason, first.detail, len(found.rejects))
    for record, (_, row) in zip(found.records, open_rows(source), strict=True):
        yield record.origin, record.content, row


def _convert(source: SourceConfig, convert: Callable[[Origin, Row], _Item]) -> list[_Item]:
    items, rejects = [], []
    for origin, row in open_rows(source):
        try:
            items.append(convert(origin, row))
        except RowError as error:
            rejects.append((origin, error.reason, error.detail))
    if rejects:
        raise _unusable(*rejects[0], len(rejects))
    return items


def _unusable(origin: Origin, reason: str, detail: str, count: int) -> DataError:
    return DataError(
        f"{origin}: {describe_reject(reason, detail)}; {count} problems are unusable",
        hint="mend them: an evaluation leaves nothing out",
    )


_READERS: dict[str, Callable[[SourceConfig], list[Problem]]] = {
    "number": read_gsm8k,
    "formula": read_math,
    "exact": read_questions,
    "choice": read_choices,
    "tool_calls": read_tool_problems,
}
