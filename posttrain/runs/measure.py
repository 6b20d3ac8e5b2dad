"""The command `evaluate --tasks`: our own tasks on a run, a model, or a recipe's newest model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.evaluation import EvaluateCommand
from posttrain.config.model import ModelConfig
from posttrain.errors import ConfigError, InterruptedRunError
from posttrain.evaluation.export import describe_unscored
from posttrain.files import write_errors, write_json
from posttrain.logs import say, show
from posttrain.reports import formatting
from posttrain.reports.evaluation import build_evaluation_page
from posttrain.reports.terminal import build_table, to_text
from posttrain.runs.find import identify_model
from posttrain.runs.targets import settle_target
from posttrain.runtime import Compute, choose_compute

# What answers depend on of the back end that writes them; the rest is patience and room.
_WRITER = {"backend", "address", "model", "format", "extra_body"}


def evaluate_model(target: str, tasks: str, overrides: Sequence[str], command: str) -> Path:
    """Measure a model on tasks, and print the scores.

    Args:
        target: A recipe, whose newest model is meant; a run, a stage, or any model.
        tasks: Names of tasks with commas between them.
        overrides: ``key=value`` strings: settings of ``EvaluateCommand``; with a recipe only those
            that begin with ``tasks.`` or ``out=``, the others are the recipe's.
        command: What to type to go on after a stop.

    Returns:
        The results' folder, with one for each task in it.

    Raises:
        PosttrainError: Any mistake in settings, tasks, data or model.
    """
    named = [{"task": name.strip()} for name in tasks.split(",") if name.strip()]
    values: dict[str, Any] = {"tasks": named}
    settings, model, out = settle_target(
        EvaluateCommand, "tasks", values, target, overrides, folder="measured"
    )
    wanted = settings.compute
    compute = choose_compute(wanted.device, wanted.precision, wanted.threads)
    compute.apply()
    try:
        scores = _measure(settings, model, out, compute, command)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted; the answers so far are kept", hint=f"go on with: {command}"
        ) from None
    for task in settings.tasks:
        build_evaluation_page(out / task.label)
    show(render_scores(scores))
    say(f"results: {out}, with a page for each task (report.html)")
    return out


def _measure(
    settings: EvaluateCommand, model: ModelConfig, out: Path, compute: Compute, command: str
) -> list[dict[str, Any]]:
    from posttrain.evaluation.tasks import check_answered, check_tasks, run_tasks
    from posttrain.models.load import load_tokenizer

    tokenizer = load_tokenizer(model)
    _check_template(model, tokenizer, settings)
    check_tasks(settings.tasks, tokenizer, settings.generator)
    writer = settings.generator.model_dump(mode="json", include=_WRITER)
    with write_errors(out, "out=DIR"):
        out.mkdir(parents=True, exist_ok=True)
    write_json(out / "lineage.json", {"model": model.path})
    found: dict[str, dict[str, Any]] = {}
    measured = run_tasks(
        settings.tasks,
        model,
        tokenizer,
        out,
        generator=settings.generator,
        compute=compute,
        identity=[identify_model(model), compute.dtype, writer],
    )
    for task, results in measured:
        check_answered(results, command)
        found[task.label] = results
    return [found[task.label] for task in settings.tasks]


def _check_template(model: ModelConfig, tokenizer: Any, settings: EvaluateCommand) -> None:
    """Say how to do without a chat template before a task asks for one."""
    from posttrain.evaluation.tasks import puts_chats

    chats = [task for task in settings.tasks if puts_chats(task)]
    if tokenizer.chat_template or not chats:
        return
    plain = next((task.label for task in chats if hasattr(task, "context")), None)
    text = f", or ask in plain text: tasks.{plain}.context=text" if plain else ""
    raise ConfigError(
        f"{model.path} has no chat template, and the task `{chats[0].label}` puts its problems "
        "as chats",
        hint=f"give one with chat_template=FILE{text}",
    )


def render_scores(results: Iterable[Mapping[str, Any]]) -> str:
    """Write the scores of tasks as a table.

    Args:
        results: Contents of ``results.json`` files.

    Returns:
        Plain text without a newline at the end.
    """
    table = build_table("task", "score", "value", "95 % interval", "problems", "unscored")
    for one in results:
        value, interval = "", ""
        if one["value"] is not None:
            value = formatting.format_score(one["metric"], one["value"])
            interval = formatting.format_score_interval(one["metric"], one["interval"])
        count = formatting.format_count(one["problems"])
        table.add_row(one["name"], one["metric"], value, interval, count, describe_unscored(one))
    return to_text(table)
