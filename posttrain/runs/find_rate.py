"""A learning rate for every offline training stage of a recipe, looked for by a range test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.checkpoints import MANIFEST
from posttrain.config.recipe import MODEL_STAGES, Recipe
from posttrain.config.train import FixedDataStage
from posttrain.files import load_json
from posttrain.runs.folder import run_folder
from posttrain.runs.kinds.kind import StageContext
from posttrain.runs.kinds.training import build_job, find_trainer
from posttrain.runs.prepare import prepare_stages
from posttrain.runs.progress import MadeModel, Progress
from posttrain.runtime import Compute, choose_compute
from posttrain.training.range_test import STEPS, RateCurve, run_range_test

_SHOWN = 24
_WIDTH = 40


def find_rates(recipe: Recipe) -> Iterator[str]:
    """Try rising learning rates on each stage's own data and model, on a copy thrown away.

    Nothing is written into the run.

    Args:
        recipe: Checked.

    Yields:
        Lines for the terminal.

    Raises:
        PosttrainError: Unusable data or model.
    """
    settings = recipe.compute
    compute = choose_compute(settings.device, settings.arithmetic, settings.threads)
    compute.apply()
    progress = Progress(recipe, run_folder(recipe))
    models = [stage.name for stage in recipe.stages if stage.stage in MODEL_STAGES]
    for stage, data, _ in prepare_stages(recipe):
        for name in models[: models.index(stage.name)]:
            _take_up(name, progress)
        yield ""
        if reason := _refuse(stage, data, progress):
            yield f"stage {stage.name}: {reason}"
        else:
            yield from _find_rate(stage, progress, compute)


def _refuse(stage: Any, data: Any, progress: Progress) -> str:
    """Say why there is no test of a stage; nothing where there is one."""
    if not isinstance(stage, FixedDataStage):
        return "the model writes its data itself; no range test"
    if isinstance(data, str):
        return data
    whole: Any = stage  # as a recipe has it
    parent = progress.parent_of(whole)
    if parent in progress.pending:
        return f"starts from the model of `{parent}`, which has not been trained"
    return ""


def _take_up(name: str, progress: Progress) -> None:
    """Note an earlier stage's model, where a run has left one."""
    if name in progress.models or name in progress.pending:
        return
    final = progress.folder / name / "final"
    marker = progress.folder / name / "stage.json"
    if (final / MANIFEST).is_file() and marker.is_file():
        progress.models[name] = MadeModel(final, load_json(marker)["digest"])
    else:
        progress.pending.append(name)


def _find_rate(stage: Any, progress: Progress, compute: Compute) -> Iterator[str]:
    """Run the test of one stage and show what came of it."""
    short = stage.model_copy(update={"steps": STEPS})
    with tempfile.TemporaryDirectory() as place:
        job = build_job(short, StageContext(Path(place), progress, compute, "", ""))
        curve: RateCurve = find_trainer(stage)(replace(job, instead=run_range_test))
    yield (
        f"stage {stage.name}: {len(curve.rates)} steps with rising learning rate, from "
        f"{job.recipe.model.path}"
    )
    yield from draw_curve(curve)
    found, reason = curve.suggest()
    if found is None:
        yield f"  no suggestion: {reason}"
    else:
        yield f"  suggestion: stages.{stage.name}.learning_rate={found:.1e}: {reason}"
        yield f"  the recipe has {stage.learning_rate:.1e}"


def draw_curve(curve: RateCurve) -> Iterator[str]:
    """Draw smoothed losses as bars, a line for every few steps."""
    losses = curve.smoothed
    low, high = min(losses), max(losses)
    yield "  learning rate      loss"
    for number in range(0, len(losses), -(-len(losses) // _SHOWN)):
        length = round((losses[number] - low) / max(high - low, 1e-12) * _WIDTH)
        bar = "#" * max(length, 1)
        yield f"  {curve.rates[number]:13.1e}  {losses[number]:8.4f}  {bar}"
