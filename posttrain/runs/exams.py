"""Tasks that a model is measured on while it is trained: a fixed choice of problems of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.checkpoints import checkpoint_name
from posttrain.config.evaluation import AnswerTask, BaseTask, ChoiceTask, PerplexityTask
from posttrain.config.exams import TrainingEvaluation
from posttrain.config.recipe import Recipe
from posttrain.errors import CheckpointError, ConfigError
from posttrain.evaluation.answers import ask_problems, write_answers
from posttrain.evaluation.choice import ask_questions, score_questions
from posttrain.evaluation.export import write_evaluation
from posttrain.evaluation.grade import open_grader
from posttrain.evaluation.perplexity import name_documents, read_documents, score_documents
from posttrain.evaluation.problems import read_problems
from posttrain.evaluation.results import (
    describe_task,
    summarize_answers,
    summarize_documents,
)
from posttrain.evaluation.subsets import choose_subset, digest_subset
from posttrain.evaluation.tasks import check_task, describe_score
from posttrain.files import load_json, write_json
from posttrain.generation.local import TransformersGenerator
from posttrain.logs import say
from posttrain.runtime import is_main_process, rank, world_size
from posttrain.training.lending import lend
from posttrain.training.processes import gather_over_processes, shares_weights

FOLDER = "evaluation"
"""In a training stage's folder: ``step-000200/TASK`` as an evaluation leaves it."""
_FILE = "subset.json"


def check_exam(recipe: Recipe, config: TrainingEvaluation, tokenizer: Any) -> None:
    """Look at tasks and problems before anything is begun.

    Raises:
        ConfigError: The weights are shared out, so that no process can write with them.
        PosttrainError: A task's problems cannot be used.
    """
    if shares_weights(recipe.parallel):
        raise ConfigError(
            "`evaluation` needs whole weights in each process, and ZeRO-3 shares them out",
            hint="set parallel.strategy=ddp or zero2, or measure in an evaluate stage",
        )
    for task in config.tasks:
        check_task(task, tokenizer)


@dataclass(frozen=True)
class _Part:
    task: BaseTask
    problems: Sequence[Any]
    """The chosen ones."""
    asked: Sequence[Any]
    """What each process takes its share of: answers that are wanted, or problems to score."""


class TaskExam:
    """Measures the model in training on tasks; every process has its share of the problems.

    Args:
        config: Tasks, problems, how often.
        folder: Of the stage.
        tokenizer: With the template that the model learns.
        model_name: For the results.
        save_every_steps: Steps between checkpoints.

    Raises:
        CheckpointError: The stage has begun with other problems.
        PosttrainError: A task's problems cannot be used.
    """

    def __init__(
        self,
        config: TrainingEvaluation,
        folder: Path,
        tokenizer: Any,
        *,
        model_name: str,
        save_every_steps: int,
    ) -> None:
        self._folder = folder / FOLDER
        self._tokenizer = tokenizer
        self._model_name = model_name
        # Of grpo and ppo checkpoints come after whole rounds, so they are counted, not steps.
        self._save_steps = save_every_steps
        self._each = (config.every_steps or save_every_steps) // save_every_steps
        self._parts = [_choose(task, config, tokenizer) for task in config.tasks]
        if is_main_process():
            self._keep_choice(config)

    def _keep_choice(self, config: TrainingEvaluation) -> None:
        """Note which problems the stage is measured on, and see that they stay the same."""
        choice = {
            part.task.label: {
                "seed": config.seed,
                "digest": digest_subset(part.problems),
                "problems": [str(problem.origin) for problem in part.problems],
            }
            for part in self._parts
        }
        for part in self._parts:
            say(f"in training: {part.task.label}, the same {len(part.problems):,} problems always")
        path = self._folder / _FILE
        known = load_json(path) if path.is_file() else {}
        for label in known.keys() & choice.keys():
            if known[label]["digest"] != choice[label]["digest"]:
                raise CheckpointError(
                    f"{path}: this stage has been measured on other problems of `{label}`, so the "
                    "best of its checkpoints could not be told",
                    hint="put the problems and settings back, or give the run another name=",
                )
        write_json(path, known | choice)

    def is_due(self, step: int, last: int, save_steps: int) -> bool:
        """Whether the model is measured after a step; see ``training.stage.Exam``."""
        return step == last or (step // save_steps) % self._each == 0

    def measure(self, model: Any, step: int, check: Callable[[], None]) -> dict[str, float]:
        """Measure a model on every task; see ``training.stage.Exam``."""
        values: dict[str, float] = {}
        for part in self._parts:
            task = part.task
            with lend(model, writing=task.needs == "generate"):
                records = self._answer(part, model, check)
            summary = _summarize(task, records)
            results = {**describe_task(task, self._model_name), "step": step, **summary}
            if is_main_process():
                write_evaluation(
                    self._folder / checkpoint_name(step) / task.label, results, records
                )
            say(f"step {step}  {task.label}  {describe_score(results)}")
            values |= {f"{task.label}/{name}": value for name, value in _list_values(results)}
        return values

    def _answer(self, part: _Part, model: Any, check: Callable[[], None]) -> list[Any]:
        """Let every process answer its share, so little at once that none waits long for another.

        Returns:
            The records of all, in the order of the problems.
        """
        count = world_size()
        size = len(part.asked) if count == 1 else _SIDE_BY_SIDE * count
        found: list[Any] = []
        for start in range(0, len(part.asked), size):
            check()
            several = part.asked[start : start + size]
            own = list(range(rank(), len(several), count))
            records = _run(part.task, [several[i] for i in own], model, self._tokenizer)
            gathered = gather_over_processes(list(zip(own, records, strict=True)))
            found += [record for _, record in sorted(gathered, key=lambda pair: pair[0])]
        return found


_SIDE_BY_SIDE = 16


def _choose(task: BaseTask, config: TrainingEvaluation, tokenizer: Any) -> _Part:
    if isinstance(task, PerplexityTask):
        documents = choose_subset(read_documents(task), config.problems, config.seed)
        return _Part(task, documents, documents)
    assert isinstance(task, AnswerTask)
    if task.needs == "score":
        problems = choose_subset(read_problems(task), config.problems, config.seed)
        return _Part(task, problems, problems)
    asked = ask_problems(task, tokenizer)
    first = [one.problem for one in asked if one.sample == 0]
    problems = choose_subset(first, config.problems, config.seed)
    chosen = {id(problem) for problem in problems}
    return _Part(task, problems, [one for one in asked if id(one.problem) in chosen])


def _run(task: BaseTask, asked: Sequence[Any], model: Any, tokenizer: Any) -> Sequence[Any]:
    """Let a model do a part of a task; the records are in the order of what is asked."""
    if not asked:  # more processes than problems
        return []
    if isinstance(task, PerplexityTask):
        documents = name_documents(asked, tokenizer)
        texts = {r.id: r for r in score_documents(task, documents, model, tokenizer)}
        return [texts[document.name] for document in documents]
    if isinstance(task, ChoiceTask) and task.method == "likelihood":
        questions = ask_questions(task, asked, tokenizer)
        scored = {record.id: record for record in score_questions(task, questions, model)}
        return [scored[question.name] for question in questions]
    assert isinstance(task, AnswerTask)
    generator = TransformersGenerator(model, tokenizer, batch_size=task.batch_size)
    with open_grader(task) as grade:
        found = {record.key: record for record in write_answers(task, asked, generator, grade)}
    return [found[one.key] for one in asked]


def _summarize(task: BaseTask, records: Sequence[Any]) -> dict[str, Any]:
    if isinstance(task, PerplexityTask):
        return summarize_documents(records)
    return summarize_answers(task, records)


def _list_values(results: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What of a task's results goes into the metrics."""
    metric = results["metric"]
    if results["value"] is not None:
        yield metric, results["value"]
    if results["interval"]:
        yield f"{metric}_low", results["interval"][0]
        yield f"{metric}_high", results["interval"][1]
    for name in ("strict_accuracy", "mean_completion_tokens", "nats_per_token", "bits_per_byte"):
        if results.get(name) is not None:
            yield name, results[name]
