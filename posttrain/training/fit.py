"""Run a trainer from where it stands to the end: what every training method shares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from posttrain.checkpoints import FoundCheckpoint, find_checkpoint, write_manifest
from posttrain.config.data import TextDataConfig
from posttrain.devices import find_peak
from posttrain.errors import CheckpointError, InterruptedRunError
from posttrain.files import digest_file, load_jsonl, publish_folder
from posttrain.logs import say
from posttrain.models.trained_template import digest_template, find_trained_template
from posttrain.runtime import is_main_process, world_size
from posttrain.tracking import open_recorder
from posttrain.training.arguments import build_arguments
from posttrain.training.batches import Done
from posttrain.training.budget import BUDGET_FILE, TokenBudget
from posttrain.training.gauges import Gauges
from posttrain.training.guards.rollback import Rollbacks, SpoiltStepError
from posttrain.training.guards.start import check_trainable, count_parameters
from posttrain.training.guards.watch import Guards
from posttrain.training.guards.weights import (
    WeightChange,
    WeightWatch,
    check_saved,
    describe_change,
)
from posttrain.training.interrupt import AbandonedError, StopRequest, catch_stop_signals
from posttrain.training.objective import Objective
from posttrain.training.optimizers import build_optimizer
from posttrain.training.processes import any_process, build_deepspeed, shared_folder
from posttrain.training.saving import Saver
from posttrain.training.stage import TrainingJob, TrainingSummary
from posttrain.training.trainer import PackedTrainer
from posttrain.uploads import Uploader


class Schedule(Protocol):
    """What a stage will do, counted in optimizer steps."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole stage."""

    def done(self, steps: int) -> Done:
        """What is behind after a number of optimizer steps."""


@dataclass(frozen=True)
class Course:
    """What is special to a method and its data."""

    objective: Objective
    dataset: Any
    """Optimizer steps in order, of this process; see ``PackedTrainer.batches_of``."""
    schedule: Schedule
    validation: Any
    """What to measure on, or None."""
    description: str
    """Of the schedule, for the terminal."""
    save_every_steps: int


def fit(
    job: TrainingJob,
    model: Any,
    tokenizer: Any,
    course: Course,
    trainer_class: type[PackedTrainer] = PackedTrainer,
) -> TrainingSummary:
    """Train, or go on training, and write the final model.

    Args:
        job: The stage.
        model: Before its first step; a checkpoint's weights are loaded into it.
        tokenizer: Its tokenizer.
        course: What to do.
        trainer_class: The trainer.

    Returns:
        Figures of the run.

    Raises:
        PosttrainError: Any of its kinds; an interruption after saving is one.
    """
    parameters = check_trainable(model, job.planned_trainable)
    watch = WeightWatch(model)
    trainer = _train(job, model, tokenizer, course, trainer_class)
    done = course.schedule.done(trainer.state.global_step)
    best = trainer.take_best() if job.stage.keeps_best else None
    change = watch.check_moved(trainer.model)
    for line in describe_change(change):
        say(line)
    with shared_folder(_publish_final(job, done.steps)) as folder:
        trainer.write_model(folder)
        check_saved(trainer.model, folder if is_main_process() else None, trainer.apart)
    trainer.saver.finish(job.final)
    summary = _summarize(trainer, done, parameters, change)
    return replace(summary, validation=_find_validation(job, best))


def _train(
    job: TrainingJob, model: Any, tokenizer: Any, course: Course, trainer_class: type[PackedTrainer]
) -> PackedTrainer:
    """Go to the last step, or where the stage stops early; back and on where a step is refused.

    Raises:
        InterruptedRunError: It was asked to stop; all is saved.
    """
    rollbacks = Rollbacks(job.folder, job.stage)
    found = find_checkpoint(job.checkpoints, job.digest)
    _say_start(job, course, count_parameters(model), found)
    _check_same(job, found)
    with catch_stop_signals() as stop:
        while True:
            guards = Guards(job.stage, rollbacks, found)
            try:
                parts = (model, tokenizer, course, guards, stop)
                trainer = _attempt(job, parts, trainer_class)
                break
            except SpoiltStepError as error:
                rollbacks.check_allowed(error)
                refused = error.with_traceback(None)  # which would keep the old trainer's memory
            found = find_checkpoint(job.checkpoints, job.digest)
            if found.path is None:  # the disk was full
                raise refused
            rollbacks.add(refused, found.step)
    stopping = any_process(bool(stop))  # a signal reaches each at another moment
    if not guards.stopped_early and (stopping or trainer.state.global_step < course.schedule.steps):
        trainer.saver.finish(None)
        raise _interrupted(job, trainer, course.schedule.steps)
    return trainer


def _attempt(
    job: TrainingJob,
    parts: tuple[Any, Any, Course, Guards, StopRequest],
    trainer_class: type[PackedTrainer],
) -> PackedTrainer:
    """Train from a checkpoint, or the start, until something ends it."""
    model, tokenizer, course, guards, stop = parts
    found = guards.found
    details = {
        "run": job.digest,
        "world_size": world_size(),
        "strategy": _describe_strategy(job),
        "batch_tokens": job.stage.batch_tokens,
    }
    saver = Saver(job.checkpoints, job.stage, details, found, _open_uploader(job))
    arguments = build_arguments(
        job.stage,
        folder=job.folder,
        compute=job.compute,
        steps=course.schedule.steps,
        seed=job.recipe.seed,
        save_steps=course.save_every_steps,
        validate=course.validation is not None or job.exam is not None,
        deepspeed=build_deepspeed(job.recipe.parallel),
    )
    if guards.stopped_early:
        arguments.max_steps = found.step
    with _open_recorder(job, found.step) as recorder:
        trainer = trainer_class(
            model=model,
            args=arguments,
            optimizer=partial(build_optimizer, stage=job.stage, recipe=job.recipe),
            objective=course.objective,
            dataset=course.dataset,
            schedule=course.schedule,
            validation=course.validation,
            saver=saver,
            recorder=recorder,
            stop=stop,
            tokenizer=tokenizer,
            budget=TokenBudget(job.folder, job.stage.batch_tokens),
            guards=guards,
            gauges=Gauges(model, find_peak(job.compute)),
            exam=job.exam,
        )
        trainer.trained_template = _find_template(job, tokenizer)
        try:
            trainer.train(resume_from_checkpoint=str(found.path) if found.path else None)
        except AbandonedError:
            if not guards.stopped_early:
                trainer.save_abandoned()
        except SpoiltStepError:
            saver.finish(None)
            raise
    return trainer


def _find_template(job: TrainingJob, tokenizer: Any) -> str | None:
    """Digest of the chat template that the model learns; plain text leaves what it has learned."""
    if isinstance(job.stage.data, TextDataConfig):
        return find_trained_template(job.recipe.model.path)
    return digest_template(tokenizer)


def _open_uploader(job: TrainingJob) -> Uploader | None:
    """Copy to a folder of the run's name, by one process."""
    place = job.recipe.upload_to
    if place is None or not is_main_process():
        return None
    return Uploader(f"{place.rstrip('/')}/{job.recipe.name}", job.folder.parent, job.folder)


def _interrupted(job: TrainingJob, trainer: PackedTrainer, steps: int) -> InterruptedRunError:
    """Say where a stopped run stands, and what is on the disk."""
    step, saved = trainer.state.global_step, trainer.saver.saved_step
    kept = "all is saved"
    if saved != step:
        where = f"from step {saved}" if saved > 0 else "from the beginning"
        kept = f"it could not be saved, and goes on {where}" if step else "nothing was done yet"
    return InterruptedRunError(
        f"stopped after step {step} of {steps}; {kept}", hint=f"go on with: {job.command}"
    )


@contextlib.contextmanager
def _publish_final(job: TrainingJob, steps: int) -> Iterator[Path]:
    with publish_folder(job.final) as folder:
        yield folder
        write_manifest(folder, {"step": steps})


def _open_recorder(job: TrainingJob, from_step: int) -> Any:
    """Metrics are written by one process."""
    if not is_main_process():
        return SilentRecorder()
    return open_recorder(
        job.recipe.tracking,
        job.folder,
        from_step=from_step,
        name=f"{job.recipe.name}/{job.stage.name}",
        settings=job.stage.model_dump(mode="json"),
    )


class SilentRecorder(contextlib.nullcontext["SilentRecorder"]):
    """The recorder of a process that another one speaks for."""

    seconds_before = step_seconds_before = 0.0

    def __enter__(self) -> SilentRecorder:
        return self

    def record(self, step: int, values: dict[str, float]) -> None:
        """Write nothing."""


def _check_same(job: TrainingJob, found: FoundCheckpoint) -> None:
    """Refuse to go on with other processes or batches: steps would hold others, states be lost.

    Raises:
        CheckpointError: Names what was and what is.
    """
    if found.path is None:
        return
    written = found.manifest
    begin_anew = f"or delete {job.checkpoints} to begin anew"
    before = written.get("world_size", 1)
    if before != world_size():
        raise CheckpointError(
            f"{found.path}: written by {before} processes, and there are {world_size()} now",
            hint=f"start {before}, {begin_anew}",
        )
    strategy = written.get("strategy", "ddp")
    if strategy != _describe_strategy(job):
        raise CheckpointError(
            f"{found.path}: written with parallel.strategy {strategy}, and it is "
            f"{_describe_strategy(job)} now: the optimizer's state could not be read",
            hint=f"set it back, {begin_anew}",
        )
    tokens = written.get("batch_tokens", job.stage.batch_tokens)
    if tokens != job.stage.batch_tokens:  # the digest has `auto`
        raise CheckpointError(
            f"{found.path}: written with batches of {tokens:,} tokens, and `batch_tokens: auto` "
            f"finds {job.stage.batch_tokens:,} here",
            hint=f"copy {job.folder / BUDGET_FILE} of that run here, {begin_anew}",
        )


def _describe_strategy(job: TrainingJob) -> str:
    """What the form of a checkpoint's optimizer state depends on."""
    parallel = job.recipe.parallel
    if parallel.deepspeed is not None:
        return f"DeepSpeed settings {digest_file(parallel.deepspeed)[:12]}"
    return parallel.strategy if parallel.offload == "none" else f"{parallel.strategy} offloaded"


def _describe_processes(job: TrainingJob) -> str:
    if world_size() == 1:
        return ""
    return f", {world_size()} processes ({job.recipe.parallel.strategy})"


def _say_start(
    job: TrainingJob, course: Course, parameters: tuple[int, int], found: FoundCheckpoint
) -> None:
    say(
        f"training: {job.recipe.tuning}, {parameters[0]:,} of {parameters[1]:,} parameters; "
        f"{course.description}, {course.schedule.steps:,} steps; {job.compute.device} "
        f"{job.compute.precision} with {job.compute.threads} threads"
        f"{_describe_processes(job)}"
    )
    for line in found.skipped:
        say(f"checkpoint passed over: {line}")
    if found.path:
        say(f"going on from step {found.step} of {course.schedule.steps} ({found.path})")
    elif found.skipped:
        say("no checkpoint is intact: starting at the beginning")


def _summarize(
    trainer: PackedTrainer, done: Done, parameters: tuple[int, int], change: WeightChange
) -> TrainingSummary:
    """Add up what was done, by interrupted attempts too."""
    seconds = trainer.clock.total_step_seconds
    losses = trainer.logged_losses
    return TrainingSummary(
        steps=done.steps,
        tokens=done.tokens,
        trained_tokens=done.trained_tokens,
        tokens_per_second=done.tokens / seconds,
        trained_tokens_per_second=done.trained_tokens / seconds,
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        trainable_parameters=parameters[0],
        total_parameters=parameters[1],
        moved_share=change.moved_share,
        weight_delta=change.delta,
        earlier_seconds=trainer.recorder.seconds_before,
        best_step=trainer.saver.find_best(),
        stopped_early=trainer.guards.stopped_early,
        skipped_steps=len(trainer.guards.rollbacks.steps),
    )


def _find_validation(job: TrainingJob, step: int | None) -> dict[str, float]:
    """Figures of the last validation, which an earlier attempt may have made; or of a step."""
    path = job.folder / "metrics.jsonl"
    for row in reversed(load_jsonl(path) if path.is_file() else []):
        found = {n: v for n, v in row.items() if n.startswith("validation_") or "/" in n}
        if found and step in (None, row["step"]):
            return found
    return {}
