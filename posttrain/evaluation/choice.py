"""Multiple choice by likelihood: the option that the model finds most likely after the question."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.config.evaluation import McqTask
from posttrain.data.formats.choice import Choice
from posttrain.data.records import Message
from posttrain.errors import DataError
from posttrain.evaluation.answers import encode_problems
from posttrain.evaluation.problems import Problem, name_origins
from posttrain.evaluation.results import GradedRecord, summarize_verdicts
from posttrain.evaluation.scoring import score_trees
from posttrain.layout import Segment
from posttrain.logs import Progress


def run_likelihood(
    task: McqTask, problems: Sequence[Problem], model: Any, tokenizer: Any
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
        _record(name, task, problem, [float(part.sum()) for part in parts[1:]], tree)
        for name, problem, parts, tree in zip(names, problems, scores, trees, strict=True)
    ]
    by = {"sum": "logprob", "bytes": "logprob_per_byte"}
    return {
        **summarize_verdicts(records),
        "accuracy_by": {
            name: sum(_best(r.options, key) == r.reference for r in records) / len(records)
            for name, key in by.items()
        },
        "seconds": seconds,
        "tokens_per_second": sum(len(s.token_ids) for t in trees for s in t) / max(seconds, 1e-9),
    }, records


def build_trees(task: McqTask, problems: Sequence[Problem], tokenizer: Any) -> list[list[Segment]]:
    """Encode questions as roots and their options as children.

    The question has the ids it has at inference; options are encoded by themselves.

    Raises:
        DataError: The template refuses a question, or an option has no token.
    """
    choices = [problem.choice for problem in problems if problem.choice is not None]
    assert len(choices) == len(problems)
    if task.context == "chat":
        contexts = encode_problems(problems, [_ask(task, c) for c in choices], tokenizer)
        start = ""
    else:
        texts = [str(_ask(task, choice)[-1]["content"]) for choice in choices]
        contexts = [list(ids) for ids in tokenizer(texts)["input_ids"]]
        start = " "
    trees = []
    for problem, choice, context in zip(problems, choices, contexts, strict=True):
        tree = [Segment(np.array(context), np.zeros(len(context)))]
        for option in choice.options:
            ids = tokenizer(start + option, add_special_tokens=False)["input_ids"]
            if not ids:
                raise DataError(f"{problem.origin}: the option {option!r} has no token")
            tree.append(Segment(np.array(ids), np.ones(len(ids)), parent=0))
        trees.append(tree)
    return trees


def _ask(task: McqTask, choice: Choice) -> list[Message]:
    """The question without its options; as plain text it announces the answer."""
    question = (
        f"Question: {choice.question}\nAnswer:" if task.context == "text" else choice.question
    )
    content = "\n\n".join(part for part in (choice.passage, question) if part)
    system = [] if task.system is None else [{"role": "system", "content": task.system}]
    return [*system, {"role": "user", "content": content}]


def _record(
    name: str, task: McqTask, problem: Problem, sums: Sequence[float], tree: Sequence[Segment]
) -> GradedRecord:
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
    answer = _best(options, "logprob_per_byte" if task.normalize == "bytes" else "logprob")
    right = answer == problem.reference
    return GradedRecord(
        id=name,
        prompt=_ask(task, choice),
        reference=problem.reference,
        completion=choice.options[choice.letters.index(answer)],
        answer=answer,
        parse="likelihood",
        correct=right,
        error=None if right else "wrong_value",
        completion_tokens=0,
        finished=True,
        groups=problem.groups,
        options=options,
    )


def _best(options: Sequence[dict[str, Any]], key: str) -> str:
    """Letter of the option with the highest score; of equal ones the first."""
    return str(max(options, key=lambda option: option[key])["letter"])
