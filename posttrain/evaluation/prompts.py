"""How a problem is put to a model: solved examples, system turn, problem, instruction."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.config.data import TaskData
from posttrain.config.evaluation import AnswerTask, ChoiceTask, Example, ReasoningTask
from posttrain.config.prompts import compile_prompt
from posttrain.data.records import Message, Origin, RowError
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import encode_rendered
from posttrain.errors import DataError
from posttrain.evaluation.problems import Problem

_INSTRUCTION = "{% if instruction %}\n{{ instruction }}{% endif %}"
_CHAT = "{{ problem }}" + _INSTRUCTION
_TEXT = "Question: {{ problem }}" + _INSTRUCTION + "\nAnswer:"
# Options that are scored stand behind the question, not in it; a passage stands before its label.
_LIKELY_TEXT = (
    "{% if passage %}{{ passage }}\n\n{% endif %}Question: {{ question }}"
    + _INSTRUCTION
    + "\nAnswer:"
)
_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Prompt:
    """What a model is given."""

    messages: tuple[Message, ...]
    """To read; of plain text one turn with all of it."""
    text: str | None = None
    """All of it, where no chat template is used."""


def build_prompts(
    task: AnswerTask,
    problems: Sequence[Problem],
    read: Callable[[TaskData], Sequence[Problem]] | None = None,
) -> list[Prompt]:
    """Put problems into words.

    Args:
        task: System turn, instruction, template, solved examples.
        problems: At least one.
        read: Reads rows with solved examples, where the task has such a file.

    Returns:
        One prompt for each.

    Raises:
        DataError: A row lacks a field that the template speaks of, or examples are too few.
    """
    if not isinstance(task, ReasoningTask):
        return [Prompt(tuple(_set_system(task, p.messages))) for p in problems]
    shots = _Shots(task, read)
    return [_build(task, problem, shots.choose(problem)) for problem in problems]


def _build(task: ReasoningTask, problem: Problem, shots: Sequence[Problem]) -> Prompt:
    asked = _put(task, problem)
    if task.context == "text":
        before = [str(m["content"]) for m in _set_system(task, problem.messages)[:-1]]
        solved = [f"{_put(task, shot)} {_solve(task, shot)}" for shot in shots]
        text = _BETWEEN.join([*before, *solved, asked])
        return Prompt(({"role": "user", "content": text},), text)
    messages = _set_system(task, problem.messages)
    start = 1 if messages[0]["role"] == "system" else 0
    turns: list[Message] = []
    for shot in shots:
        turns.append({"role": "user", "content": _put(task, shot)})
        turns.append({"role": "assistant", "content": _solve(task, shot)})
    last = {**messages[-1], "content": asked}
    return Prompt((*messages[:start], *turns, *messages[start:-1], last))


def _set_system(task: AnswerTask, messages: Iterable[Message]) -> list[Message]:
    copied = [dict(message) for message in messages]
    if task.system is None:
        return copied
    rest = [m for m in copied if m["role"] != "system"]
    return [{"role": "system", "content": task.system}, *rest]


def _put(task: ReasoningTask, problem: Problem) -> str:
    """Write the last turn of a prompt."""
    choice = problem.choice
    likely = isinstance(task, ChoiceTask) and task.method == "likelihood"
    default = _CHAT if task.context == "chat" else _LIKELY_TEXT if likely else _TEXT
    whole = question = str(problem.messages[-1]["content"])
    options: list[dict[str, str]] = []
    passage = ""
    if choice is not None:
        question, passage = choice.question, choice.passage
        pairs = zip(choice.letters, choice.options, strict=True)
        options = [{"letter": letter, "text": text} for letter, text in pairs]
        if likely:
            whole = _BETWEEN.join(part for part in (passage, question) if part)
    try:
        return compile_prompt(task.prompt or default).render(
            problem=whole,
            instruction=task.instruction,
            question=question,
            passage=passage,
            options=options,
            row=dict(problem.row),
        )
    except Exception as error:  # whatever a template makes of a row
        raise DataError(
            f"{problem.origin}: the task's `prompt` cannot be written for this row: {error}",
            hint=f"the row has: {', '.join(problem.row) or 'no fields'}",
        ) from error


def _solve(task: ReasoningTask, shot: Problem) -> str:
    """What the model is shown as the answer to a solved example."""
    if isinstance(task, ChoiceTask):
        if task.method == "likelihood" and shot.choice is not None:
            return shot.choice.options[shot.choice.right]
        return shot.solution if task.cot or shot.choice is None else shot.reference
    return shot.reference if task.cot is False else shot.solution


class _Shots:
    """Solved examples: the same ones for every problem, but for one that is among them.

    Args:
        task: Which ones.
        read: Reads a file of them.

    Raises:
        DataError: There are too few.
    """

    def __init__(
        self, task: ReasoningTask, read: Callable[[TaskData], Sequence[Problem]] | None
    ) -> None:
        shots = task.shots
        self._number = len(shots.examples) if shots.number is None else shots.number
        self._pool = [_read_example(example, n) for n, example in enumerate(shots.examples, 1)]
        self._listed = shots.data is None
        if shots.data and self._number:
            assert read is not None
            self._pool = list(read(shots.data))
            self._place = str(shots.data.path)
            random.Random(shots.seed).shuffle(self._pool)

    def choose(self, problem: Problem) -> list[Problem]:
        if not self._number:
            return []
        words = _words(problem)
        # One more than needed is looked at for every copy of the problem in the pool.
        chosen: list[Problem] = []
        for shot in self._pool:
            if len(chosen) < self._number and _words(shot) != words:
                chosen.append(shot)
            elif len(chosen) == self._number:
                break
        if len(chosen) < self._number and self._listed:
            raise DataError(
                f"{problem.origin}: this problem is one of the solved examples in "
                "`shots.examples`, and never its own example; too few others are written down",
                hint="take it out of one of them, or give more examples and say `shots.number`",
            )
        if len(chosen) < self._number:
            raise DataError(
                f"{problem.origin}: {self._place} has {len(chosen)} solved examples besides this "
                f"problem, and shots.number is {self._number}",
                hint="give more of them, or ask for fewer",
            )
        return chosen


def _words(problem: Problem) -> str:
    return " ".join(str(problem.messages[-1]["content"]).split()).casefold()


def _read_example(example: Example, number: int) -> Problem:
    prompt: Message = {"role": "user", "content": example.problem}
    origin = Origin("shots.examples", number)
    return Problem(origin, (prompt,), example.answer, solution=example.answer, row=example.row)


def encode_prompts(
    problems: Sequence[Problem], prompts: Sequence[Prompt], tokenizer: Any
) -> list[list[int]]:
    """Render and encode prompts.

    Args:
        problems: For their tools and places.
        prompts: Of the problems.
        tokenizer: With a chat template, but for plain text.

    Returns:
        Token ids up to where the answer is to be written.

    Raises:
        DataError: The template refuses one.
        ConfigError: There is no template.
    """
    texts = [prompt.text for prompt in prompts if prompt.text is not None]
    if len(texts) == len(prompts):
        return [list(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    renderer = ChatRenderer(tokenizer)
    encoded = []
    for problem, prompt in zip(problems, prompts, strict=True):
        try:
            text = renderer.render(prompt.messages, problem.tools, prompt=True)
            encoded.append(encode_rendered(text, tokenizer))
        except RowError as error:
            raise DataError(
                f"{problem.origin}: {error.reason}: {error.detail}",
                hint="give the model's own chat_template, or mend the row",
            ) from error
    return encoded
