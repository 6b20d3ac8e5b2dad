"""Graded answers chosen for people to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.reports.folders import Row, TaskFolder

_HOW_FOUND = {
    "marker": "after the answer marker",
    "boxed": "in the box",
    "stated": "behind the words that announce it",
    "bare": "the whole text",
    "last_number": "the last number of the text",
    "last_expression": "the last formula of the text",
    "pattern": "by the task's own pattern",
    "letter": "the letter alone",
    "leading": "the letter at the beginning",
    "likelihood": "the most likely option",
    "harness": "as the harness's task says",
    "tag": "in tool call tags",
    "json": "a call as JSON",
    "python": "a call as Python",
    "broken": "a call that cannot be read",
    "none": "no answer found",
}


@dataclass(frozen=True)
class Answer:
    """What one model wrote on one problem."""

    who: str
    completion: str
    answer: str | None
    found: str
    """Where in the text the answer was found."""
    correct: bool
    verdict: str
    tokens: int | None


@dataclass(frozen=True)
class Sample:
    """A problem with the answers of the models that met it."""

    identity: str
    question: str
    reference: str
    prompt: tuple[tuple[str, str], ...]
    """Role and text of every message; empty where the question is all of it."""
    answers: tuple[Answer, ...]


def choose_samples(task: TaskFolder, others: Sequence[tuple[str, TaskFolder]]) -> list[Sample]:
    """Choose three problems, two answered right and one wrong where there are such.

    They are the first ones in the order of the file, so that nobody picked the good ones; of
    several samples the first.

    Args:
        task: Its answers decide on right and wrong.
        others: Name and folder of every model to show, ``task`` itself included, left to right.

    Returns:
        Up to three samples, right ones first.
    """
    records = [record for record in task.load_records() if _is_first(record)]
    right = [i for i, r in enumerate(records) if r.get("correct")]
    wrong = [i for i, r in enumerate(records) if r.get("correct") is False]
    chosen = [*right[:2], *wrong[:1]]
    chosen += [*right[2:], *wrong[1:]][: 3 - len(chosen)]
    wanted = {records[i].get("id") for i in chosen}
    sides = [(who, _index_records(other, wanted)) for who, other in others]
    samples = []
    for record in (records[i] for i in chosen):
        met = [(who, rows[record.get("id")]) for who, rows in sides if record.get("id") in rows]
        samples.append(build_sample(record, [build_answer(who, row) for who, row in met]))
    return samples


def _index_records(task: TaskFolder, wanted: set[Any]) -> dict[Any, Row]:
    return {r.get("id"): r for r in task.load_records() if r.get("id") in wanted and _is_first(r)}


def _is_first(record: Row) -> bool:
    """Whether it is the only answer to its problem, or the first of several samples."""
    return not record.get("sample")


def build_sample(record: Row, answers: Sequence[Answer]) -> Sample:
    """Make a problem readable, with the answers given."""
    messages = [m for m in record.get("prompt") or [] if isinstance(m, dict)]
    prompt = tuple((str(m.get("role", "")), message_text(m)) for m in messages)
    return Sample(
        str(record.get("id")),
        find_question(record),
        str(record.get("reference", "")),
        prompt if len(prompt) > 1 else (),
        tuple(answers),
    )


def find_question(record: Row) -> str:
    """Return the last user message of a record's prompt; empty where there is none."""
    messages = [m for m in record.get("prompt") or [] if isinstance(m, dict)]
    users = [m for m in messages if m.get("role") == "user"]
    return message_text((users or messages or [{}])[-1])


def message_text(message: Row) -> str:
    """Return a message's text; of a message without text its tool calls as JSON."""
    content = message.get("content")
    if isinstance(content, str) and content:
        return content
    rest = content or message.get("tool_calls")
    return json.dumps(rest, ensure_ascii=False, indent=1) if rest else ""


def describe_parse(parse: str) -> str:
    """Say in words how an answer was found."""
    return _HOW_FOUND.get(parse, parse)


def build_answer(who: str, record: Row) -> Answer:
    """Make a record readable."""
    correct = bool(record.get("correct"))
    error = record.get("error")
    answer = record.get("answer")
    parse = str(record.get("parse", ""))
    tokens = record.get("completion_tokens")
    return Answer(
        who,
        str(record.get("completion", "")),
        None if answer is None else str(answer),
        describe_parse(parse),
        correct,
        "right" if correct else str(error or "wrong").replace("_", " "),
        int(tokens) if isinstance(tokens, int | float) else None,
    )
