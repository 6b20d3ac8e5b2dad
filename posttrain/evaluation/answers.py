"""Tasks whose answers the model writes: prompt, generate, grade."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.config.evaluation import AnswerTask, MathTask, ReasoningTask
from posttrain.data.records import Message, RowError
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import encode_rendered
from posttrain.errors import DataError
from posttrain.evaluation.problems import Problem, name_origins
from posttrain.evaluation.results import GradedRecord, summarize
from posttrain.generation.generator import Completion, GenerationOptions, write_all
from posttrain.generation.local import TransformersGenerator, build_requests
from posttrain.grading.answers import find_math_answer, find_numeric_answer
from posttrain.grading.choices import find_letter
from posttrain.grading.equivalence import numbers_equal
from posttrain.grading.math import FormulaGrader
from posttrain.grading.tool_calls import accept_calls, match_calls, parse_tool_calls
from posttrain.logs import Progress

_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
_BARE = "Give only the final answer."
_LETTER = "Answer with the letter of the right option."
INSTRUCTIONS = {
    ("gsm8k", True): _BOXED,
    ("gsm8k", False): _BARE,
    ("math", True): _BOXED,
    ("math", False): _BARE,
    (
        "mcq",
        True,
    ): 'Please reason step by step, and end with "Answer: " and the letter of the right option.',
    ("mcq", False): _LETTER,
    ("mcq", None): _LETTER,
}
"""What is asked for below a problem, by task and ``cot``."""


@dataclass(frozen=True)
class Verdict:
    """What grading says of a completion."""

    answer: str | None
    parse: str
    error: str | None
    """Class of the mistake; None where the answer is right."""


Grader = Callable[[Problem, Completion], Verdict]


def run_answers(
    task: AnswerTask, problems: Sequence[Problem], model: Any, tokenizer: Any
) -> tuple[dict[str, Any], list[GradedRecord]]:
    """Let a model answer problems, and grade what it writes.

    Args:
        task: How to ask and grade.
        problems: At least one.
        model: A causal model in evaluation mode.
        tokenizer: Its tokenizer.

    Returns:
        Summary and records.

    Raises:
        DataError: The template refuses a problem.
    """
    asked = [ask(task, problem) for problem in problems]
    prompts = encode_problems(problems, asked, tokenizer)
    started = time.perf_counter()
    completions = write_all(
        TransformersGenerator(model, tokenizer, batch_size=task.batch_size),
        build_requests(prompts),
        GenerationOptions(task.max_new_tokens),
        Progress(task.label, len(problems), "answers").update,
    )
    seconds = time.perf_counter() - started
    names = name_origins(problem.origin for problem in problems)
    records = []
    with open_grader(task) as grade:
        for name, problem, prompt, completion in zip(
            names, problems, asked, completions, strict=True
        ):
            verdict = grade(problem, completion)
            records.append(_record(name, problem, prompt, completion, verdict))
    return summarize(records, seconds=seconds), records


def ask(task: AnswerTask, problem: Problem) -> list[Message]:
    """Build the messages that put a problem to a model: system turn, problem, instruction."""
    messages = [dict(message) for message in problem.messages]
    if task.system is not None:
        messages = [m for m in messages if m["role"] != "system"]
        messages.insert(0, {"role": "system", "content": task.system})
    cot = task.cot if isinstance(task, ReasoningTask) else None
    if instruction := INSTRUCTIONS.get((task.kind, cot)):
        last = messages[-1]
        messages[-1] = {**last, "content": f"{last['content']}\n{instruction}"}
    return messages


def encode_problems(
    problems: Sequence[Problem], asked: Sequence[Sequence[Message]], tokenizer: Any
) -> list[list[int]]:
    """Render and encode prompts.

    Args:
        problems: For their tools and places.
        asked: Their messages.
        tokenizer: With a chat template.

    Returns:
        Token ids up to where the answer is to be written.

    Raises:
        DataError: The template refuses one.
        ConfigError: There is no template.
    """
    renderer = ChatRenderer(tokenizer)
    prompts = []
    for problem, messages in zip(problems, asked, strict=True):
        try:
            text = renderer.render(messages, problem.tools, prompt=True)
            prompts.append(encode_rendered(text, tokenizer))
        except RowError as error:
            raise DataError(
                f"{problem.origin}: {error.reason}: {error.detail}",
                hint="give the model's own chat_template, or mend the row",
            ) from error
    return prompts


@contextlib.contextmanager
def open_grader(task: AnswerTask) -> Iterator[Grader]:
    """Give the function that grades a task's completions; some hold a process meanwhile.

    Raises:
        MissingExtraError: The task needs a package that is not installed.
    """
    if isinstance(task, MathTask):
        with FormulaGrader(task.grader_seconds) as formulas:
            yield lambda problem, completion: _grade_math(problem, completion, formulas)
    else:
        yield {"gsm8k": _grade_number, "mcq": _grade_letter, "tool_calls": _grade_calls}[task.kind]


def _grade_number(problem: Problem, completion: Completion) -> Verdict:
    found = find_numeric_answer(completion.text)
    if found.text is not None and numbers_equal(found.text, problem.reference):
        return Verdict(found.text, found.parse, None)
    error = "wrong_value" if found.text is not None else "no_answer"
    return Verdict(found.text, found.parse, error if completion.finished else "unfinished")


def _grade_math(problem: Problem, completion: Completion, formulas: FormulaGrader) -> Verdict:
    found = find_math_answer(completion.text)
    # The last formula of a text that was cut off is no answer, whatever it equals.
    cut_off = not completion.finished and found.parse == "last_expression"
    if found.text is None or cut_off:
        return Verdict(None, "none", "no_answer" if completion.finished else "unfinished")
    verdict = formulas.judge(found.text, problem.reference)
    if verdict == "equal":
        return Verdict(found.text, found.parse, None)
    error = "grader_timeout" if verdict == "timeout" else "wrong_value"
    return Verdict(found.text, found.parse, error if completion.finished else "unfinished")


def _grade_letter(problem: Problem, completion: Completion) -> Verdict:
    assert problem.choice is not None
    found = find_letter(completion.text, problem.choice.letters)
    if found.text == problem.reference:
        return Verdict(found.text, found.parse, None)
    error = "wrong_value" if found.text is not None else "no_answer"
    return Verdict(found.text, found.parse, error if completion.finished else "unfinished")


def _grade_calls(problem: Problem, completion: Completion) -> Verdict:
    expected = problem.expected
    parsed = parse_tool_calls(completion.text, problem.tools)
    accepted = accept_calls(expected["calls"], problem.tools, expected["possible"])
    shown = "\n".join(
        f"{call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})"
        for call in parsed.calls
    )
    error = match_calls(parsed.calls, accepted)
    if parsed.parse == "broken":
        # Where no call is expected, a broken one is a call all the same.
        error = "unparsable" if accepted else "unexpected_call"
    if error and not completion.finished:
        error = "unfinished"
    return Verdict(shown or None, parsed.parse, error)


def _record(
    name: str,
    problem: Problem,
    prompt: Sequence[Message],
    completion: Completion,
    verdict: Verdict,
) -> GradedRecord:
    return GradedRecord(
        id=name,
        prompt=[dict(message) for message in prompt],
        reference=problem.reference,
        completion=completion.text,
        answer=verdict.answer,
        parse=verdict.parse,
        correct=verdict.error is None,
        error=verdict.error,
        completion_tokens=completion.token_count,
        finished=completion.finished,
        groups=problem.groups,
        expected=problem.expected,
    )
