"""Run a recipe's stages in order, skipping what is done, going on with what was cut off."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from posttrain.checkpoints import MANIFEST, check_intact
from posttrain.config.recipe import Recipe, Stage
from posttrain.config.train import TRAINING_STAGES, TrainingStage
from posttrain.errors import ConfigError, InterruptedRunError, PosttrainError
from posttrain.files import load_json, write_errors, write_json
from posttrain.logs import format_duration, log_file, mute, say
from posttrain.runs.folder import POLL_SECONDS, StageFolder, run_folder
from posttrain.runs.kinds import KINDS, StageContext
from posttrain.runs.progress import (
    MadeModel,
    Progress,
    check_sources,
    settle_sources,
    stage_digest,
)
from posttrain.runtime import (
    Compute,
    choose_compute,
    count_cores,
    describe_environment,
    is_main_process,
    peak_memory_bytes,
)
from posttrain.tracking import check_trackers
from posttrain.uploads import check_upload


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
    for stage in recipe.stages:
        if not only or stage.stage in only:
            check_sources(stage)
    check_trackers(recipe.tracking)
    if not only or set(only) & set(TRAINING_STAGES):
        from posttrain.runs.tuning import check_tuning

        check_tuning(recipe)
    if recipe.upload_to:
        check_upload(recipe.upload_to)
    folder = run_folder(recipe)
    with _time_limit(recipe.stop_after_minutes):
        if is_main_process():
            _lead_run(recipe, folder, command, only)
        else:
            mute()
            _walk_stages(recipe, folder, only, partial(_follow, command))
    return folder


class _TimeIsUpError(KeyboardInterrupt):
    """The time that a recipe gives itself is over, outside of training."""


@contextlib.contextmanager
def _time_limit(minutes: float | None) -> Iterator[None]:
    """Raise as Ctrl-C would, when the minutes are over; training catches the signal and saves."""
    if minutes is None:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TimeIsUpError(f"stop_after_minutes: {minutes:g} minutes are over")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _lead_run(recipe: Recipe, folder: Path, command: str, only: Collection[str]) -> None:
    with write_errors(folder, "output=DIR"):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0), log_file(folder / "train.log"):
            # Preparing data alone does not replace the settings of a run.
            if set(only) != {"sample-data"} or not (folder / "config.json").is_file():
                write_json(folder / "config.json", recipe.model_dump(mode="json"))
            _walk_stages(recipe, folder, only, partial(_lead, command))
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
    except KeyboardInterrupt as stop:
        raise InterruptedRunError(
            f"{str(stop) or 'interrupted'}; finished stages and checkpoints are kept",
            hint=f"go on with: {command}" if command else "",
        ) from None


Advance = Callable[[Stage, StageFolder, Progress, "dict[str, Any] | None"], dict[str, Any]]
"""Brings a stage to its end; gets what a finished one has left, returns ``stage.json``."""


def _walk_stages(recipe: Recipe, folder: Path, only: Collection[str], advance: Advance) -> None:
    """Go through the stages in order; those that are not wanted count where they are finished."""
    progress = Progress(recipe, folder)
    for stage in recipe.stages:
        wanted = not only or stage.stage in only
        if not wanted and _is_out_of_reach(stage, progress):
            _pass_over(stage, progress)
            continue
        settled = settle_sources(stage, progress)
        stage_folder = StageFolder(folder / stage.name, stage_digest(settled, progress))
        done = _load_done(settled, stage_folder)
        if wanted:
            done = advance(settled, stage_folder, progress, done)
        if done:
            _take_up(stage, done, stage_folder, progress)
        else:
            _pass_over(stage, progress)


def _lead(
    command: str,
    stage: Stage,
    folder: StageFolder,
    progress: Progress,
    done: dict[str, Any] | None,
) -> dict[str, Any]:
    reason = KINDS[stage.stage].goes_on(stage, done) if done else ""
    if done and not reason:
        say(f"stage {stage.name}: unchanged, not run again ({folder.path})")
        return done
    if reason:
        say(f"stage {stage.name}: {reason}")
    return _run_stage(stage, folder, progress, command)


def _follow(
    command: str,
    stage: Stage,
    folder: StageFolder,
    progress: Progress,
    done: dict[str, Any] | None,
) -> dict[str, Any]:
    """Take part in a run that another process leads: in its training stages, nothing else.

    What the other stages make is waited for on the file system, never inside a collective, whose
    time is limited.
    """
    if done:
        return done
    if isinstance(stage, TrainingStage):
        _take_part(stage, folder, progress, command)
    return folder.wait_finished()


def _take_part(stage: Any, folder: StageFolder, progress: Progress, command: str) -> None:
    """Train beside the leading process, once it has claimed the folder and settled the compute."""
    kind = KINDS[stage.stage]
    kind.check(stage, progress)
    folder.wait_started()
    compute = settle_compute(progress.recipe, progress.folder)
    compute.apply()
    kind.run(stage, StageContext(folder.path, progress, compute, command, folder.digest))


def _is_out_of_reach(stage: Stage, progress: Progress) -> bool:
    """Whether a stage that is not to be run has no result, or one of stages yet to be run."""
    finished = (progress.folder / stage.name / "stage.json").is_file()
    return not finished or progress.needs_pending(stage) is not None


def _pass_over(stage: Stage, progress: Progress) -> None:
    if KINDS[stage.stage].makes in ("model", "file"):
        progress.pending.append(stage.name)


def _load_done(stage: Stage, folder: StageFolder) -> dict[str, Any] | None:
    """Read what a finished stage has left, where it is still there and whole."""
    done = folder.load_finished()
    if not done:
        return None
    needed = KINDS[stage.stage].outputs(stage, folder.path)
    if missing := next((path for path in needed if not path.is_file()), None):
        say(f"stage {stage.name}: was finished, but {missing} is gone")
        return None
    for manifest in (path for path in needed if path.name == MANIFEST):
        check_intact(manifest.parent, hint=f"delete {manifest.parent} to make it again")
    return done


def _run_stage(
    stage: Stage, folder: StageFolder, progress: Progress, command: str
) -> dict[str, Any]:
    say(f"stage {stage.name}: {stage.stage}")
    started = time.time()
    kind = KINDS[stage.stage]
    kind.check(stage, progress)
    folder.begin()
    compute = _NO_COMPUTE
    if kind.computes:
        compute = settle_compute(progress.recipe, progress.folder)
        compute.apply()
    result = kind.run(stage, StageContext(folder.path, progress, compute, command, folder.digest))
    result["peak_memory_bytes"] = peak_memory_bytes()
    earlier = result["summary"].get("earlier_seconds", 0.0)
    done = folder.finish(stage, started, result, earlier_seconds=earlier)
    say(f"stage {stage.name}: done in {format_duration(done['seconds'])}")
    return done


_NO_COMPUTE = Compute("cpu", "fp32", 1, "nothing to compute")


def _take_up(stage: Stage, done: dict[str, Any], folder: StageFolder, progress: Progress) -> None:
    """Note a finished stage's outputs for the stages that follow."""
    if "file" in done:
        progress.files[stage.name] = folder.path / done["file"]
    if KINDS[stage.stage].makes == "model" and "model" not in done:
        progress.pending.append(stage.name)  # it is made elsewhere
    if "model" in done:
        tokenizer = str(folder.path / done["tokenizer"]) if "tokenizer" in done else None
        if tokenizer is None and (parent := progress.parent_of(stage)):
            tokenizer = progress.models[parent].tokenizer
        path = folder.path / done["model"]
        progress.models[stage.name] = MadeModel(path, folder.digest, tokenizer)
    if KINDS[stage.stage].makes == "evaluation":
        progress.evaluations[stage.name] = (folder.path, folder.digest)


def settle_compute(recipe: Recipe, folder: Path) -> Compute:
    """Choose threads and number format once for a run, and keep them.

    A resumed run must add up its numbers in the same order, so a measurement is never repeated
    while settings and machine are the same.
    """
    path = folder / "environment.json"
    asked = recipe.compute.model_dump(mode="json")
    wanted = {**asked, "cores": count_cores()}
    while not is_main_process():  # which measures for all, with its own number of cores
        known = load_json(path) if path.is_file() else {}
        if known.get("wanted", {}).items() >= asked.items():
            return Compute(**known["compute"])
        time.sleep(POLL_SECONDS)
    if path.is_file() and (known := load_json(path)).get("wanted") == wanted:
        return Compute(**known["compute"])
    settings = recipe.compute
    compute = choose_compute(settings.device, settings.arithmetic, settings.threads)
    say(
        f"computing on {compute.device} in {compute.precision} with {compute.threads} threads "
        f"({compute.reason})"
    )
    write_json(path, {**describe_environment(compute), "wanted": wanted})
    return compute
