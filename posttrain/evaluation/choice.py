"""Multiple choice by likelihood: the option that the model finds most likely after the question."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.config.evaluation import ChoiceTask
from posttrain.errors import DataError
from posttrain.evaluation.grade import SCORES, find_best
from posttrain.evaluation.problems import Problem, name_origins, read_problems
from posttrain.evaluation.prompts import Prompt, build_prompts, encode_prompts
from posttrain.evaluation.results import GradedRecord, summarize_choices
from posttrain.evaluation.scoring import score_trees
from posttrain.layout import Segment
from posttrain.logs import Progress


def run_likelihood(
    task: ChoiceTask, problems: Sequence[Problem], model: Any, tokenizer: Any
) -> tuple[dict[str, Any], list[GradedRecord]]:
    """Score every option of every question; the question goes through the model once.

    Args:
        task: Context and normalization.
        problems: Multiple-choice problems, at least one.
        model: Loaded with our packed attention, in evaluation mode.
        tokenizer: Its tokenizer.

    Returns:
        Summary and records. Records keep the scores of all options; the summary tells the accuracy
        by either score, whichever decides.

    Raises:
        DataError: The template refuses a question, or an option has no token.
    """
    prompts = _build_prompts(task, problems)
    trees = build_trees(task, problems, tokenizer)
    started = time.perf_counter()
    scores = score_trees(
        model,
        trees,
        batch_tokens=task.batch_tokens,
        progress=Progress(task.label, len(trees), "questions").update,
    )
    seconds = time.perf_counter() - started
    names = name_origins(problem.origin for problem in problems)
    records = [
        _record((name, problem, prompt), task, [float(part.sum()) for part in parts[1:]], tree)
        for name, problem, prompt, parts, tree in zip(
            names, problems, prompts, scores, trees, strict=True
        )
    ]
    return {
        **summarize_choices(records),
        "seconds": seconds,
        "tokens_per_second": sum(len(s.token_ids) for t in trees for s in t) / max(seconds, 1e-9),
    }, records


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


def _record(
    asked: tuple[str, Problem, Prompt],
    task: ChoiceTask,
    sums: Sequence[float],
    tree: Sequence[Segment],
) -> GradedRecord:
    name, problem, prompt = asked
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
        id=name,
        prompt=[dict(message) for message in prompt.messages],
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
