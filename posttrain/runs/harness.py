"""The command `evaluate --harness`: which model is meant, and where the results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.harness import HarnessCommand, HarnessConfig
from posttrain.config.model import ModelConfig
from posttrain.files import move_aside, write_errors
from posttrain.logs import say, show
from posttrain.reports import formatting
from posttrain.reports.evaluation import build_run_pages
from posttrain.reports.terminal import build_table, to_text
from posttrain.runs.targets import settle_target
from posttrain.runtime import Compute, choose_compute


def evaluate_harness(target: str, tasks: str, overrides: Sequence[str]) -> Path:
    """Measure a model on tasks of lm-evaluation-harness, and print the scores.

    Args:
        target: A recipe, whose newest model is meant; a run, a stage, or any model.
        tasks: Names of tasks with commas between them.
        overrides: ``key=value`` strings: settings of ``HarnessCommand``; with a recipe only those
            that begin with ``harness.`` or ``out=``, the others are the recipe's.

    Returns:
        The results' folder.

    Raises:
        PosttrainError: Any mistake in settings, tasks, data or model.
    """
    from posttrain.evaluation.harness import check_tasks

    values = {"harness": {"tasks": tasks}}
    settings, model, out = settle_target(
        HarnessCommand, "harness", values, target, overrides, folder="harness"
    )
    wanted = settings.compute
    compute = choose_compute(wanted.device, wanted.precision, wanted.threads)
    compute.apply()
    check_tasks(settings.harness)
    with write_errors(out, "out=DIR"):
        if aside := move_aside(out):
            say(f"the older result is kept as {aside}")
    show(render_scores(run_harness(settings.harness, model, out, compute)))
    build_run_pages(out)
    say(f"results: {out}, with a page for each task (report.html)")
    return out


def run_harness(
    config: HarnessConfig, model: ModelConfig, out: Path, compute: Compute
) -> dict[str, Any]:
    """Load tasks and model, and measure.

    Args:
        config: Settings.
        model: Whose model.
        out: Folder of the results.
        compute: Where.

    Returns:
        As ``posttrain.evaluation.harness.evaluate_tasks``.

    Raises:
        PosttrainError: A mistake in tasks, data or model; tasks are looked at first.
    """
    from posttrain.evaluation.harness import evaluate_tasks, load_tasks
    from posttrain.models.load import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    loaded = load_tasks(config)
    found = load_model(model, attention="sdpa", dtype=compute.dtype).to(compute.device)
    say(f"harness: {', '.join(loaded['tasks'])} on {model.path}")
    return evaluate_tasks(config, loaded, found, tokenizer, out, model_name=model.path)


def render_scores(whole: Mapping[str, Any]) -> str:
    """Write the scores as a table.

    Args:
        whole: From ``run_harness``.

    Returns:
        Plain text without a newline at the end.
    """
    table = build_table("task", "score", "value", "95 % interval", "problems")
    for name, task in whole["tasks"].items():
        for key, score in task["scores"].items():
            metric = "accuracy" if "correct" in score else ""
            table.add_row(
                name,
                key,
                formatting.format_score(metric, score["value"]),
                formatting.format_score_interval(metric, score["interval"]),
                formatting.format_count(task["problems"]),
            )
    for name, scores in whole["groups"].items():
        for key, score in scores.items():
            interval = formatting.format_score_interval("", score["interval"])
            table.add_row(
                f"{name} (group)", key, formatting.format_number(score["value"]), interval, ""
            )
    return to_text(table)
