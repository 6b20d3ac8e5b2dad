"""What a command of measuring is pointed at: which model, by which settings, results where."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from posttrain.config.evaluation import EvaluateCommand
from posttrain.config.harness import HarnessCommand
from posttrain.config.load import build_settings, load_recipe
from posttrain.config.model import ModelConfig
from posttrain.config.opencompass import OpencompassCommand
from posttrain.config.recipe import MODEL_STAGES, Recipe
from posttrain.errors import CheckpointError
from posttrain.runs.find import find_latest_model
from posttrain.runs.folder import run_folder

_Command = TypeVar("_Command", EvaluateCommand, HarnessCommand, OpencompassCommand)


def settle_target(
    root: type[_Command],
    part: str,
    values: Mapping[str, Any],
    target: str,
    overrides: Sequence[str],
    *,
    folder: str,
) -> tuple[_Command, ModelConfig, Path]:
    """Find the model that is meant, and where its results go.

    Args:
        root: Settings of the command.
        part: Its own part of them.
        values: What its arguments say.
        target: A recipe, whose newest model is meant; a run, a stage, or any model.
        overrides: ``key=value`` strings; with a recipe those that begin with the part's name, with
            ``out=`` or ``chat_template=`` are the command's, the others the recipe's.
        folder: What to call the results.

    Returns:
        Settings, model, and folder.

    Raises:
        PosttrainError: A mistake in the settings, or there is no model yet.
    """
    if Path(target).suffix.lower() in (".yaml", ".yml"):
        heads = (f"{part}.", "out=", *_of_model(root))
        ours = [text for text in overrides if text.startswith(heads)]
        recipe = load_recipe(Path(target), [text for text in overrides if text not in ours])
        model = _find_recipe_model(recipe)
        known: dict[str, Any] = {"model": model.path}
        if "compute" in root.model_fields:
            known["compute"] = recipe.compute.model_dump(mode="json")
        settings = build_settings(root, {**values, **known}, ours)
        model = _put_template(model, settings)
        return settings, model, settings.out or run_folder(recipe) / folder
    settings = build_settings(root, {"model": target, **values}, overrides)
    model = ModelConfig(
        path=find_latest_model(settings.model), trust_remote_code=settings.trust_remote_code
    )
    model = _put_template(model, settings)
    return settings, model, settings.out or _choose_folder(settings.model, model.path, folder)


def _of_model(root: type[_Command]) -> tuple[str, ...]:
    return ("chat_template=",) if "chat_template" in root.model_fields else ()


def _put_template(model: ModelConfig, settings: _Command) -> ModelConfig:
    """Give the model the template that the command names, where it names one."""
    template = getattr(settings, "chat_template", None)
    return model.model_copy(update={"chat_template": template}) if template else model


def _find_recipe_model(recipe: Recipe) -> ModelConfig:
    """The newest model that a recipe's run has made; its own where no stage makes one."""
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


def _choose_folder(name: str, model: str, folder: str) -> Path:
    """Beside what a run has made; in the folder of all runs for any other model."""
    if name != model or (Path(name).parent / "stage.json").is_file():
        return Path(name).absolute() / folder
    return Path(os.environ.get("POSTTRAIN_RUNS") or "runs").absolute() / Path(name).name / folder
