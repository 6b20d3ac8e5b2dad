"""The command `evaluate --harness`: which model is meant, and where the results go."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.harness import HarnessCommand, HarnessConfig
from posttrain.config.load import build_settings, load_recipe
from posttrain.config.model import ModelConfig
from posttrain.config.recipe import MODEL_STAGES, Recipe
from posttrain.errors import CheckpointError
from posttrain.files import move_aside, write_errors
from posttrain.logs import say, show
from posttrain.reports import formatting
from posttrain.reports.terminal import build_table, to_text
from posttrain.runs.find import find_latest_model
from posttrain.runs.folder import run_folder
from posttrain.runtime import Compute, choose_compute

_FOLDER = "harness"


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

    values: dict[str, Any] = {"harness": {"tasks": tasks}}
    if Path(target).suffix.lower() in (".yaml", ".yml"):
        ours = [text for text in overrides if text.startswith(("harness.", "out="))]
        recipe = load_recipe(Path(target), [text for text in overrides if text not in ours])
        model = find_recipe_model(recipe)
        values |= {"model": model.path, "compute": recipe.compute.model_dump(mode="json")}
        settings = build_settings(HarnessCommand, values, ours)
        out = settings.out or run_folder(recipe) / _FOLDER
    else:
        settings = build_settings(HarnessCommand, {"model": target, **values}, overrides)
        model = ModelConfig(
            path=find_latest_model(settings.model), trust_remote_code=settings.trust_remote_code
        )
        out = settings.out or choose_folder(settings.model, model.path, _FOLDER)
    wanted = settings.compute
    compute = choose_compute(wanted.device, wanted.precision, wanted.threads)
    compute.apply()
    check_tasks(settings.harness)
    with write_errors(out):
        if aside := move_aside(out):
            say(f"the older result is kept as {aside}")
    show(render_scores(run_harness(settings.harness, model, out, compute)))
    say(f"results: {out}")
    return out


def find_recipe_model(recipe: Recipe) -> ModelConfig:
    """Find the newest model that a recipe's run has made; its own where no stage makes one.

    Raises:
        CheckpointError: No stage has made one yet.
    """
    if not any(stage.stage in MODEL_STAGES for stage in recipe.stages):
        return recipe.model
    folder = run_folder(recipe)
    path = find_latest_model(str(folder))
    if path == str(folder):
        raise CheckpointError(
            f"{folder}: this recipe has made no model yet",
            hint="train it first, or give the model itself instead of the recipe",
        )
    return ModelConfig(path=path, trust_remote_code=recipe.model.trust_remote_code)


def choose_folder(name: str, model: str, folder: str) -> Path:
    """Find the place of a model's results: beside what a run has made, or among all runs.

    Args:
        name: The run, stage or model as it was given.
        model: The model that was found for it.
        folder: What to call the results.
    """
    if name != model or (Path(name).parent / "stage.json").is_file():
        return Path(name).absolute() / folder
    return Path(os.environ.get("POSTTRAIN_RUNS") or "runs").absolute() / Path(name).name / folder


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
    dtype = "bfloat16" if compute.precision == "bf16" else "float32"
    found = load_model(model, attention="sdpa", dtype=dtype).to(compute.device)
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
