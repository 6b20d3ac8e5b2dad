"""Math word problems: generate greedily, grade by exact numeric equality (GSM8K)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from posttrain.config.evaluation import TaskConfig
from posttrain.data.encode import encode_prompt
from posttrain.data.prepare import read_source
from posttrain.data.records import Record, RowError
from posttrain.data.templates import ChatRenderer
from posttrain.errors import DataError
from posttrain.evaluation.results import GradedRecord, summarize
from posttrain.files import write_json, write_jsonl
from posttrain.generation.greedy import Completion, generate_greedy
from posttrain.grading.answers import find_numeric_answer
from posttrain.grading.equivalence import numbers_equal
from posttrain.logs import Progress


def evaluate_math(
    task: TaskConfig, model: Any, tokenizer: Any, folder: Path, *, model_name: str
) -> dict[str, Any]:
    """Measure a model on a file of problems.

    Args:
        task: With its data's path settled.
        model: A causal model in evaluation mode.
        tokenizer: Its tokenizer.
        folder: For ``records.jsonl`` and ``results.json``.
        model_name: For the results.

    Returns:
        The contents of ``results.json``.

    Raises:
        DataError: A problem is unusable or has no reference answer.
    """
    problems = load_problems(task)
    prompts = encode_problems(problems, tokenizer)
    started = time.perf_counter()
    completions = generate_greedy(
        model,
        tokenizer,
        prompts,
        max_new_tokens=task.max_new_tokens,
        batch_size=task.batch_size,
        progress=Progress(task.label, len(problems), "answers").update,
    )
    seconds = time.perf_counter() - started
    records = [grade(p, c) for p, c in zip(problems, completions, strict=True)]
    results = {
        "task": task.task,
        "name": task.label,
        "model": model_name,
        "data": str(task.data.path),
        **summarize(records, seconds=seconds),
    }
    write_jsonl(folder / "records.jsonl", (asdict(record) for record in records))
    write_json(folder / "results.json", results)
    return results


def load_problems(task: TaskConfig) -> Sequence[Record]:
    """Read a task's problems; every one must be usable, or the score would be of another set.

    Raises:
        DataError: Names the first row that is not.
    """
    rows = read_source(task.data)
    if rows.rejects:
        first = rows.rejects[0]
        raise DataError(
            f"{first.origin}: {first.reason} {first.detail}".rstrip()
            + f"; {len(rows.rejects)} problems are unusable",
            hint="mend them: an evaluation leaves nothing out",
        )
    for record in rows.records:
        if record.chat.reference is None:
            raise DataError(
                f"{record.origin}: no reference answer to grade against",
                hint=f"the task {task.task} needs rows in the gsm8k format",
            )
    return rows.records


def encode_problems(problems: Sequence[Record], tokenizer: Any) -> list[list[int]]:
    """Render and encode the problems' prompts.

    Raises:
        DataError: The template refuses one.
    """
    renderer = ChatRenderer(tokenizer)
    prompts = []
    for problem in problems:
        try:
            prompts.append(encode_prompt(problem, renderer))
        except RowError as error:
            raise DataError(
                f"{problem.origin}: {error.reason}: {error.detail}",
                hint="give the model's own chat_template, or mend the row",
            ) from error
    return prompts


def grade(problem: Record, completion: Completion) -> GradedRecord:
    """Grade one answer.

    Args:
        problem: With its reference.
        completion: What the model wrote.

    Returns:
        The record with verdict and error class.
    """
    reference = problem.chat.reference or ""
    found = find_numeric_answer(completion.text)
    correct = found.text is not None and numbers_equal(found.text, reference)
    error = None
    if not correct:
        error = "wrong value" if found.text is not None else "no answer"
        if not completion.finished:
            error = "unfinished"
    return GradedRecord(
        # The file's name, not its folder: the same problems pair up on any machine.
        id=f"{Path(problem.origin.file).name}:{problem.origin.line}",
        prompt=[dict(message) for message in problem.chat.prompt],
        reference=reference,
        completion=completion.text,
        answer=found.text,
        parse=found.parse,
        correct=correct,
        error=error,
        completion_tokens=completion.token_count,
        finished=completion.finished,
    )
