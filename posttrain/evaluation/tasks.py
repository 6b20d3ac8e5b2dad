"""The tasks: what each one reads, asks of a model, and leaves behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.evaluation import (
    AnswerTask,
    BaseTask,
    ChoiceTask,
    ItemsTask,
    ModelNeed,
    PerplexityTask,
)
from posttrain.config.generation import GeneratorConfig, TransformersBackEnd
from posttrain.config.model import ModelConfig
from posttrain.data.expansion import expand_source
from posttrain.errors import PosttrainError
from posttrain.evaluation.answers import check_answers, run_answers
from posttrain.evaluation.choice import build_trees, run_likelihood
from posttrain.evaluation.export import describe_unscored, write_evaluation
from posttrain.evaluation.items import check_items, describe_items, evaluate_items
from posttrain.evaluation.perplexity import encode_documents, read_documents, run_perplexity
from posttrain.evaluation.problems import read_problems
from posttrain.evaluation.results import describe_task
from posttrain.generation.back_ends import check_back_end, is_back_end, load_back_end
from posttrain.generation.generator import Generator
from posttrain.generation.local import TransformersGenerator
from posttrain.logs import say
from posttrain.models.attention import register_attention
from posttrain.models.attention.choose import settle_attention
from posttrain.models.load import load_base_config, load_model
from posttrain.models.output_layer import check_scorable
from posttrain.models.packed import prepare_packed
from posttrain.models.trained_template import compare_templates, digest_template
from posttrain.runtime import Compute

_IN_THIS_PROCESS = TransformersBackEnd()


def load_task_model(
    config: ModelConfig,
    need: ModelNeed,
    *,
    dtype: str,
    device: str,
    generator: GeneratorConfig = _IN_THIS_PROCESS,
    tokenizer: Any = None,
) -> Any:
    """Load a model for the tasks that need the same of it.

    Args:
        config: The model.
        need: ``generate``: with transformers' own attention and its cache; ``score``: with our
            packed attention, where it can be packed; ``nothing``: not at all.
        dtype: Of the weights.
        device: ``cpu`` or ``cuda``.
        generator: What writes, where something is to be written.
        tokenizer: The model's; of other back ends than transformers.

    Returns:
        The model on the device, in evaluation mode, or the back end that writes in its place.

    Raises:
        CheckpointError: It cannot be read.
        ConfigError: ``score``, and the architecture cannot be scored.
    """
    if need == "nothing":
        return None
    if need == "generate" and not isinstance(generator, TransformersBackEnd):
        return load_back_end(generator, config, tokenizer, dtype=dtype)
    if need == "generate":
        return load_model(config, attention="sdpa", dtype=dtype).to(device)
    register_attention()
    precision = "bf16" if dtype == "bfloat16" else "fp32"
    settings = load_base_config(config)
    check_scorable(settings)
    attention = settle_attention(config.attention, settings, device=device, precision=precision)
    return load_model(config, attention=attention.name, dtype=dtype, prepare=prepare_packed).to(
        device
    )


def check_tasks(tasks: Sequence[BaseTask], tokenizer: Any, generator: GeneratorConfig) -> None:
    """Check every task, and what writes their answers, before anything is begun.

    Raises:
        PosttrainError: As of ``check_task`` and ``check_back_end``.
    """
    for task in tasks:
        check_task(task, tokenizer)
    if any(task.needs == "generate" for task in tasks):
        check_back_end(generator)


def check_task(task: BaseTask, tokenizer: Any) -> None:
    """Read and encode everything of a task, before anything is begun.

    Args:
        task: With its data's path settled.
        tokenizer: The model's.

    Raises:
        DataError: A problem is unusable.
        ConfigError: The tokenizer lacks a chat template that the task needs.
        MissingExtraError: The task needs a package that is not installed.
    """
    if isinstance(task, PerplexityTask):
        documents = read_documents(task)
        encode_documents(documents, tokenizer)
        _say_read(task, len(documents), "texts")
        return
    if isinstance(task, ItemsTask):
        check_items(task)
        return
    if isinstance(task, ChoiceTask) and task.method == "likelihood":
        _say_read(task, len(build_trees(task, read_problems(task), tokenizer)), "problems")
    elif isinstance(task, AnswerTask):
        _say_read(task, check_answers(task, tokenizer), "problems")


def _say_read(task: BaseTask, count: int, things: str) -> None:
    """Say what was read of which file, for a folder may hold another one than is meant."""
    files = [str(source.path) for source in expand_source(task.data)]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    say(f"{task.label}: {count:,} {things if count > 1 else things[:-1]} of {files[0]}{more}")


def compare_template(
    model: ModelConfig, tokenizer: Any, generator: GeneratorConfig, tasks: Sequence[BaseTask]
) -> dict[str, Any] | None:
    """Hold the chat template in use to the one that a model was trained with.

    Returns:
        As of ``compare_templates``; None where no task puts chats, or an endpoint answers, with a
        template of its own and perhaps another model.
    """
    if generator.backend == "openai" or not any(map(puts_chats, tasks)):
        return None
    return compare_templates(model.path, digest_template(tokenizer))


def puts_chats(task: BaseTask) -> bool:
    """Whether a task puts its problems to the model by the chat template."""
    return isinstance(task, AnswerTask) and getattr(task, "context", "chat") == "chat"


def run_tasks(
    tasks: Sequence[BaseTask],
    model: ModelConfig,
    tokenizer: Any,
    folder: Path,
    *,
    generator: GeneratorConfig,
    compute: Compute,
    identity: Sequence[Any],
) -> Iterator[tuple[BaseTask, dict[str, Any]]]:
    """Measure a model on tasks; those that ask the same of it share one loading.

    Args:
        tasks: With their data's paths settled.
        model: What to load.
        tokenizer: Its tokenizer.
        folder: Holds a folder for each task.
        generator: What writes answers.
        compute: Device and number format.
        identity: What tells the model, as it is loaded, from another, like JSON.

    Yields:
        A task and the contents of its ``results.json``.

    Raises:
        PosttrainError: A problem or the model is unusable.
    """
    template = compare_template(model, tokenizer, generator, tasks)
    held, loaded = None, None
    for task in sorted(tasks, key=lambda task: task.needs):
        if loaded != task.needs:
            held = None  # before the next one is loaded
            held = load_task_model(
                model,
                task.needs,
                dtype=compute.dtype,
                device=compute.device,
                generator=generator,
                tokenizer=tokenizer,
            )
            loaded = task.needs
        results = run_task(
            task,
            held,
            tokenizer,
            folder / task.label,
            model_name=model.path,
            model_identity=identity,
            template=template,
        )
        yield task, results


def run_task(
    task: BaseTask,
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    model_name: str,
    model_identity: Any = None,
    template: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a model on a task.

    Args:
        task: With its data's path settled.
        model: Loaded by ``load_task_model`` for what the task needs.
        tokenizer: Its tokenizer.
        folder: For records and results; see ``evaluation.export``.
        model_name: For the results.
        model_identity: What tells the model from another, so that answers of one are never gone on
            with by another; its name where absent.
        template: For the results of a task that puts chats, from ``compare_template``.

    Returns:
        The contents of ``results.json``: ``metric``, ``value``, ``interval`` (None where there is
        none) and ``higher_is_better`` for every task, and what is special to it.

    Raises:
        DataError: A problem is unusable.
    """
    records: Sequence[Any]
    about = describe_task(task, model_name)
    if template and puts_chats(task):
        about["template"] = dict(template)
    if isinstance(task, ItemsTask):
        assert task.data.path is not None
        return evaluate_items(task, task.data.path, folder, limit=task.data.limit, about=about)
    identity = model_identity or model_name
    if isinstance(task, PerplexityTask):
        summary, records = run_perplexity(task, model, tokenizer, folder, model_identity=identity)
    elif isinstance(task, ChoiceTask) and task.method == "likelihood":
        summary, records = run_likelihood(task, model, tokenizer, folder, model_identity=identity)
    else:
        assert isinstance(task, AnswerTask)
        if is_back_end(model):
            generator: Generator = model
            about["generator"] = model.about
            # An endpoint that is asked for no model by name may have another one the next time.
            identity = [identity, model.about.get("model")]
        else:
            generator = TransformersGenerator(model, tokenizer, batch_size=task.batch_size)
        summary, records = run_answers(task, generator, tokenizer, folder, model_identity=identity)
    results = {**about, **summary}
    write_evaluation(folder, results, records)
    return results


def check_answered(results: Mapping[str, Any], command: str) -> None:
    """Refuse a task that not one answer could be had to; its records are kept.

    Args:
        results: From ``run_task``.
        command: What to type to ask again.

    Raises:
        PosttrainError: With the most frequent reason.
    """
    failures = results.get("failures") or {}
    if not failures or sum(failures.values()) < results["problems"] * results["samples"]:
        return
    writer = results.get("generator") or {}
    place = writer.get("address") or results["model"]
    reason = max(failures, key=lambda reason: int(failures[reason]))
    raise PosttrainError(
        f"{results['name']}: {place} has answered none of {sum(failures.values()):,} times: "
        f"{reason}",
        hint=f"mend that and go on with: {command}",
    )


def describe_score(results: dict[str, Any]) -> str:
    """Say a result in a few words, for the log."""
    interval = results["interval"]
    if results["kind"] == "items":
        return describe_items(results)
    if results["metric"] == "accuracy":
        unscored = f"; {unscored}" if (unscored := describe_unscored(results)) else ""
        if interval is None:
            return f"nothing could be scored{unscored}"
        low, high = interval
        return (
            f"{results['accuracy']:.1%} right ({results['correct']} of {results['scored']}, "
            f"95 % interval {low:.1%} to {high:.1%}){unscored}"
        )
    shown = f", 95 % interval {interval[0]:.4g} to {interval[1]:.4g}" if interval else ""
    return f"{results['metric']} {results['value']:.4g} ({results['problems']} documents{shown})"
