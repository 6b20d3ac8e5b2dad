"""Multiple choice by likelihood: the option that the model finds most likely after the question."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config.evaluation import ChoiceTask
from posttrain.errors import DataError
from posttrain.evaluation.grade import SCORES, find_best
from posttrain.evaluation.journal import identify, open_journal, tell_time
from posttrain.evaluation.problems import Problem, name_origins, read_problems
from posttrain.evaluation.prompts import Prompt, build_prompts, encode_prompts
from posttrain.evaluation.regrade import grade_again
from posttrain.evaluation.results import GradedRecord, regroup, summarize_choices
from posttrain.evaluation.scoring import score_trees
from posttrain.layout import Segment
from posttrain.logs import Progress


@dataclass(frozen=True)
class Question:
    """A question with its options, as the model is given them."""

    name: str
    problem: Problem
    prompt: Prompt
    tree: list[Segment]

    @property
    def token_count(self) -> int:
        """Tokens of the question and of all options."""
        return sum(len(segment.token_ids) for segment in self.tree)


def run_likelihood(
    task: ChoiceTask, model: Any, tokenizer: Any, folder: Path, *, model_identity: Any
) -> tuple[dict[str, Any], list[GradedRecord]]:
    """Score every option of every question; the question goes through the model once.

    What an earlier, unfinished attempt has left in the folder is gone on with.

    Args:
        task: Questions, context and normalization.
        model: Loaded with our packed attention, in evaluation mode.
        tokenizer: Its tokenizer.
        folder: Of the task's results.
        model_identity: What tells the model from another.

    Returns:
        Summary and records. Records keep the scores of all options; the summary tells the accuracy
        by either score, whichever decides.

    Raises:
        DataError: The template refuses a question, or an option has no token.
    """
    asked = ask_questions(task, read_problems(task), tokenizer)
    told = [[q.name, [s.token_ids.tolist() for s in q.tree], q.problem.reference] for q in asked]
    with open_journal(
        folder,
        identify(task, told, model_identity),
        lambda line: grade_again(GradedRecord.from_json(line), task).to_json(),
    ) as journal:
        found = {line["id"]: GradedRecord.from_json(line) for line in journal.lines}
        resumed = len(found)
        rest = [question for question in asked if question.name not in found]
        progress = Progress(task.label, len(asked), "questions")
        started = time.perf_counter()
        for record in score_questions(task, rest, model):
            journal.add(record.to_json())
            found[record.id] = record
            progress.update(len(found))
        seconds = time.perf_counter() - started
    records = [regroup(found[question.name], question.problem) for question in asked]
    tokens = sum(question.token_count for question in rest)
    took = tell_time(folder, "tokens_per_second", tokens, seconds, resumed=resumed)
    return summarize_choices(records) | took, records


def ask_questions(task: ChoiceTask, problems: Sequence[Problem], tokenizer: Any) -> list[Question]:
    """Put and encode questions and options.

    Args:
        task: Context and solved examples.
        problems: Multiple-choice problems, at least one.
        tokenizer: The model's.

    Raises:
        DataError: The template refuses a question, or an option has no token.
    """
    names = name_origins(problem.origin for problem in problems)
    prompts = _build_prompts(task, problems)
    trees = build_trees(task, problems, tokenizer)
    return [Question(*parts) for parts in zip(names, problems, prompts, trees, strict=True)]


def score_questions(
    task: ChoiceTask, questions: Sequence[Question], model: Any
) -> Iterator[GradedRecord]:
    """Score the options of questions.

    Args:
        task: Normalization.
        questions: From ``ask_questions``.
        model: Loaded with our packed attention, in evaluation mode.

    Yields:
        Their records, in the order in which they are finished.
    """
    trees = [question.tree for question in questions]
    for number, parts in score_trees(model, trees, batch_tokens=task.batch_tokens):
        yield _record(questions[number], task, [float(part.sum()) for part in parts[1:]])


def build_trees(
    task: ChoiceTask, problems: Sequence[Problem], tokenizer: Any
) -> list[list[Segment]]:
    """Encode questions as roots and their options as children.

    The question has the ids it has at inference; options are encoded by themselves.

    Raises:
        DataError: The template refuses a question, or an option has no token.
    """
    contexts = encode_prompts(problems, _build_prompts(task, problems), tokenizer)
    start = " " if task.context == "text" else ""
    trees = []
    for problem, context in zip(problems, contexts, strict=True):
        choice = problem.choice
        assert choice is not None
        tree = [Segment(np.array(context), np.zeros(len(context)))]
        for option in choice.options:
            ids = tokenizer(start + option, add_special_tokens=False)["input_ids"]
            if not ids:
                raise DataError(f"{problem.origin}: the option {option!r} has no token")
            tree.append(Segment(np.array(ids), np.ones(len(ids)), parent=0))
        trees.append(tree)
    return trees


def _build_prompts(task: ChoiceTask, problems: Sequence[Problem]) -> list[Prompt]:
    """The questions without their options; as plain text they announce the answer."""
    return build_prompts(task, problems, lambda source: read_problems(task, source))


def _record(question: Question, task: ChoiceTask, sums: Sequence[float]) -> GradedRecord:
    problem, tree = question.problem, question.tree
    choice = problem.choice
    assert choice is not None
    options = [
        {
            "letter": letter,
            "text": text,
            "tokens": len(segment.token_ids),
            "logprob": total,
            "logprob_per_byte": total / len(text.encode()),
        }
        for letter, text, total, segment in zip(
            choice.letters, choice.options, sums, tree[1:], strict=True
        )
    ]
    answer = find_best(options, SCORES[task.normalize])
    right = answer == problem.reference
    return GradedRecord(
        id=question.name,
        prompt=[dict(message) for message in question.prompt.messages],
        reference=problem.reference,
        completion=choice.options[choice.letters.index(answer)],
        answer=answer,
        parse="likelihood",
        correct=right,
        strict=right,
        error=None if right else "wrong",
        prompt_tokens=len(tree[0].token_ids),
        completion_tokens=0,
        finished=True,
        groups=problem.groups,
        cluster=problem.cluster,
        options=options,
    )
