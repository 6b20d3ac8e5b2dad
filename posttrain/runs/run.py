"""Run a recipe's stages in order, skipping what is done, going on with what was cut off."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from posttrain.checkpoints import check_intact
from posttrain.config.data import SampleDataStage
from posttrain.config.evaluation import EvaluateStage
from posttrain.config.recipe import Recipe, Stage
from posttrain.config.train import SftStage
from posttrain.errors import ConfigError, InterruptedRunError, PosttrainError
from posttrain.files import load_json, write_errors, write_json
from posttrain.logs import format_duration, log_file, say
from posttrain.runs.folder import StageFolder, run_folder
from posttrain.runs.stages import (
    Progress,
    check_sources,
    check_stage,
    find_missing_output,
    run_evaluate,
    run_sample_data,
    run_sft,
    sample_file,
    settle_sources,
    stage_digest,
)
from posttrain.runtime import (
    Compute,
    choose_compute,
    count_cores,
    describe_environment,
    peak_memory_bytes,
)


def run_recipe(recipe: Recipe, command: str, *, only: Collection[str] = ()) -> Path:
    """Run a recipe, or some kinds of its stages.

    Args:
        recipe: Checked.
        command: What to type to go on after a stop.
        only: Kinds of stages to run, such as ``sft``; all where empty. The others' finished
            results are taken up where they exist.

    Returns:
        The run's folder.

    Raises:
        PosttrainError: Any of its kinds.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "several processes are not supported yet", hint="start posttrain without a launcher"
        )
    for stage in recipe.stages:
        if not only or stage.stage in only:
            check_sources(stage)
    folder = run_folder(recipe)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0), log_file(folder / "train.log"):
            # Preparing data alone does not replace the settings of a run.
            if set(only) != {"sample-data"} or not (folder / "config.json").is_file():
                write_json(folder / "config.json", recipe.model_dump(mode="json"))
            _run_stages(recipe, folder, command, only)
    except Timeout:
        raise ConfigError(
            f"{folder}: another process is working on this run",
            hint="wait for it, or give this one another name=",
        ) from None
    except OSError as error:  # of the lock
        raise PosttrainError(
            f"cannot write {folder}: {error.strerror or error}",
            hint="choose another place with output=DIR",
        ) from error
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted; finished stages and checkpoints are kept",
            hint=f"go on with: {command}" if command else "",
        ) from None
    return folder


def _run_stages(recipe: Recipe, folder: Path, command: str, only: Collection[str]) -> None:
    progress = Progress(recipe, folder)
    for stage in recipe.stages:
        wanted = not only or stage.stage in only
        if not wanted and _is_out_of_reach(stage, progress):
            _pass_over(stage, progress)
            continue
        settled = settle_sources(stage, progress)
        stage_folder = StageFolder(folder / stage.name, stage_digest(settled, progress))
        done = stage_folder.load_finished()
        if done and (missing := find_missing_output(settled, stage_folder.path)):
            say(f"stage {stage.name}: was finished, but {missing} is gone")
            done = None
        elif done and isinstance(stage, SftStage):
            final = stage_folder.path / "final"
            check_intact(final, hint=f"delete {final} to make it again")
        if done and wanted:
            say(f"stage {stage.name}: unchanged, not run again ({stage_folder.path})")
        elif wanted:
            done = _run_stage(settled, stage_folder, progress, command)
        if done:
            _take_up(stage, done, stage_folder, progress)
        else:
            _pass_over(stage, progress)


def _is_out_of_reach(stage: Stage, progress: Progress) -> bool:
    """Whether a stage that is not to be run has no result, or one of a model yet to be trained."""
    finished = (progress.folder / stage.name / "stage.json").is_file()
    return not finished or progress.parent_of(stage) in progress.pending


def _pass_over(stage: Stage, progress: Progress) -> None:
    if isinstance(stage, SftStage):
        progress.pending.append(stage.name)


def _run_stage(
    stage: Stage, folder: StageFolder, progress: Progress, command: str
) -> dict[str, Any]:
    say(f"stage {stage.name}: {stage.stage}")
    started = time.time()
    if not isinstance(stage, SampleDataStage):
        check_stage(stage, progress)
    folder.begin()
    if isinstance(stage, SampleDataStage):
        result = run_sample_data(stage, folder.path)
    else:
        compute = settle_compute(progress.recipe, progress.folder)
        compute.apply()
        if isinstance(stage, SftStage):
            with log_file(folder.path / "train.log"):
                result = run_sft(stage, folder.path, progress, compute, command)
        else:
            result = run_evaluate(stage, folder.path, progress, compute)
    result["peak_memory_bytes"] = peak_memory_bytes()
    earlier = result["summary"].get("earlier_seconds", 0.0)
    done = folder.finish(stage, started, result, earlier_seconds=earlier)
    say(f"stage {stage.name}: done in {format_duration(done['seconds'])}")
    return done


def _take_up(stage: Stage, done: dict[str, Any], folder: StageFolder, progress: Progress) -> None:
    """Note a finished stage's outputs for the stages that follow."""
    if isinstance(stage, SampleDataStage):
        progress.sample_files[stage.name] = sample_file(stage, folder.path)
    elif isinstance(stage, SftStage):
        progress.models[stage.name] = (folder.path / "final", folder.digest)
    elif isinstance(stage, EvaluateStage):
        progress.evaluations[stage.name] = (folder.path, folder.digest)


def settle_compute(recipe: Recipe, folder: Path) -> Compute:
    """Choose threads and number format once for a run, and keep them.

    A resumed run must add up its numbers in the same order, so a measurement is never repeated
    while settings and machine are the same.
    """
    path = folder / "environment.json"
    wanted = {**recipe.compute.model_dump(mode="json"), "cores": count_cores()}
    if path.is_file():
        known = load_json(path)
        if known.get("wanted") == wanted:
            return Compute(**known["compute"])
    settings = recipe.compute
    compute = choose_compute(settings.device, settings.precision, settings.threads)
    say(
        f"computing on {compute.device} in {compute.precision} with {compute.threads} threads "
        f"({compute.reason})"
    )
    write_json(path, {**describe_environment(compute), "wanted": wanted})
    return compute
