"""Tasks whose answers the model writes: prompt, generate, grade as each answer arrives."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config.evaluation import AnswerTask
from posttrain.evaluation.grade import UNANSWERED, open_grader
from posttrain.evaluation.journal import identify, open_journal, tell_time
from posttrain.evaluation.problems import Problem, name_origins, read_problems
from posttrain.evaluation.prompts import Prompt, build_prompts, encode_prompts
from posttrain.evaluation.regrade import grade_again
from posttrain.evaluation.results import GradedRecord, regroup, summarize
from posttrain.generation.generator import (
    Completion,
    GenerationOptions,
    GenerationRequest,
    Generator,
)
from posttrain.grading.verdicts import Grade, Verdict
from posttrain.logs import Progress


@dataclass(frozen=True)
class Asked:
    """One answer that is wanted."""

    name: str
    sample: int
    problem: Problem
    prompt: Prompt
    token_ids: Sequence[int]

    @property
    def key(self) -> tuple[str, int]:
        """That of its record."""
        return self.name, self.sample


def run_answers(
    task: AnswerTask, generator: Generator, tokenizer: Any, folder: Path, *, model_identity: Any
) -> tuple[dict[str, Any], list[GradedRecord]]:
    """Let a model answer problems, and grade each answer as it comes.

    What an earlier, unfinished attempt has left in the folder is gone on with.

    Args:
        task: What to ask, how to ask and grade.
        generator: Writes the answers.
        tokenizer: The model's.
        folder: Of the task's results.
        model_identity: What tells the model from another.

    Returns:
        Summary and records, in the order of the problems.

    Raises:
        DataError: A problem is unusable, or the template refuses one.
    """
    asked = ask_problems(task, tokenizer)
    told = [[a.name, a.token_ids, a.problem.reference, a.problem.expected] for a in asked]
    with (
        open_grader(task) as grade,
        open_journal(
            folder,
            identify(task, told, model_identity),
            lambda line: grade_again(GradedRecord.from_json(line), task, grade).to_json(),
        ) as journal,
    ):
        done = {
            record.key: record
            for record in map(GradedRecord.from_json, journal.lines)
            if record.error != "unanswered"  # is tried again
        }
        rest = [one for one in asked if one.key not in done]
        progress = Progress(task.label, len(asked), "answers")
        started = time.perf_counter()
        fresh: list[GradedRecord] = []
        for record in write_answers(task, rest, generator, grade):
            journal.add(record.to_json())
            fresh.append(record)
            progress.update(len(done) + len(fresh))
        seconds = time.perf_counter() - started
    found = done | {record.key: record for record in fresh}
    # Groups and clusters are those of now, whatever they were when the answer was written.
    records = [regroup(found[one.key], one.problem) for one in asked]
    tokens = sum(record.completion_tokens for record in fresh)
    rate = "completion_tokens_per_second"
    return summarize(records) | tell_time(folder, rate, tokens, seconds, resumed=len(done)), records


def check_answers(task: AnswerTask, tokenizer: Any) -> int:
    """Read, put and encode all problems, and open the grader, before anything is begun.

    Returns:
        How many problems there are.

    Raises:
        DataError: A problem is unusable, or the template refuses one.
        MissingExtraError: The grader needs a package that is not installed.
    """
    asked = ask_problems(task, tokenizer)
    with open_grader(task):
        return len({one.name for one in asked})


def write_answers(
    task: AnswerTask, asked: Sequence[Asked], generator: Generator, grade: Grade
) -> Iterator[GradedRecord]:
    """Write answers and grade each as it comes.

    Args:
        task: How to write.
        asked: The answers that are wanted, some of those of ``ask_problems``.
        generator: Writes them.
        grade: From ``open_grader``.

    Yields:
        Their records, in the order in which they are finished.
    """
    requests = [_request(task, one) for one in asked]
    for number, completion in generator.generate(requests, _read_options(task)):
        verdict = UNANSWERED
        if completion.failure is None:
            reference = asked[number].problem.graded_by
            verdict = grade(reference, completion.text, completion.finished)
        yield _record(asked[number], completion, verdict)


def ask_problems(task: AnswerTask, tokenizer: Any) -> list[Asked]:
    """Read, put and encode all problems.

    Returns:
        Every answer that is wanted: those to one problem side by side.

    Raises:
        DataError: A problem is unusable, or the template refuses one.
    """
    problems = read_problems(task)
    prompts = build_prompts(task, problems, lambda source: read_problems(task, source))
    encoded = encode_prompts(problems, prompts, tokenizer)
    names = name_origins(problem.origin for problem in problems)
    return [
        Asked(name, sample, problem, prompt, ids)
        for name, problem, prompt, ids in zip(names, problems, prompts, encoded, strict=True)
        for sample in range(task.samples)
    ]


def find_seed(seed: int, name: str, sample: int) -> int:
    """Make an answer's own seed, whatever is written before or beside it.

    Args:
        seed: The task's.
        name: The problem's.
        sample: Number of the answer to it, from 0.

    Returns:
        63 bits.
    """
    digest = hashlib.sha256(f"{seed}\0{name}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _request(task: AnswerTask, one: Asked) -> GenerationRequest:
    return GenerationRequest(
        tuple(one.token_ids),
        one.prompt.messages if one.prompt.text is None else None,
        one.problem.tools,
        find_seed(task.seed, one.name, one.sample),
    )


def _read_options(task: AnswerTask) -> GenerationOptions:
    return GenerationOptions(
        task.max_new_tokens, task.temperature, task.top_p, task.top_k, task.stop
    )


def _record(one: Asked, completion: Completion, verdict: Verdict) -> GradedRecord:
    problem = one.problem
    choice = problem.choice
    options = zip(choice.letters, choice.options, strict=True) if choice else ()
    return GradedRecord(
        id=one.name,
        sample=one.sample,
        prompt=[dict(message) for message in one.prompt.messages],
        reference=problem.reference,
        completion=completion.text,
        failure=completion.failure,
        answer=verdict.answer,
        parse=verdict.parse,
        correct=verdict.correct,
        strict=verdict.strict,
        error=verdict.error,
        prompt_tokens=len(one.token_ids),
        completion_tokens=completion.token_count,
        seconds=completion.seconds,
        finished=completion.finished,
        groups=problem.groups,
        cluster=problem.cluster,
        expected=problem.expected,
        tools=list(problem.tools),
        options=[{"letter": letter, "text": text} for letter, text in options],
    )
