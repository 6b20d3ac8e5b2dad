"""Supervised fine-tuning, full or through adapters: the assistant's turns, packed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from posttrain.checkpoints import FoundCheckpoint, find_checkpoint, write_manifest
from posttrain.data.prepare import PreparedData, prepare_data
from posttrain.errors import InterruptedRunError
from posttrain.files import publish_folder
from posttrain.logs import say
from posttrain.models.attention import choose_attention, register_attention
from posttrain.models.load import load_model, load_tokenizer
from posttrain.models.lora import add_lora
from posttrain.models.packed import check_packable, prepare_packed
from posttrain.runtime import set_seed
from posttrain.tracking import MetricsRecorder
from posttrain.training.arguments import build_arguments
from posttrain.training.batches import PlannedBatches, Schedule, build_schedule
from posttrain.training.guards import WeightWatch, check_trainable
from posttrain.training.interrupt import catch_stop_signals
from posttrain.training.stage import TrainingJob, TrainingSummary
from posttrain.training.trainer import PackedTrainer


def train_sft(job: TrainingJob) -> TrainingSummary:
    """Run or resume supervised fine-tuning; the model ends up in ``job.final``.

    Args:
        job: The stage with everything it needs.

    Returns:
        Figures of the run.

    Raises:
        PosttrainError: Any of its kinds; an interruption after saving is one.
    """
    tokenizer = load_tokenizer(job.recipe.model)
    data = prepare_data(job.stage.data, tokenizer)
    describe_data(data)
    _copy_data_report(data, job.folder / "data")
    schedule = build_schedule(data.train, job.stage, seed=job.recipe.seed)
    model = build_model(job)
    trainable, total = check_trainable(model)
    found = find_checkpoint(job.checkpoints)
    _say_start(job, schedule, trainable, total, found)
    watch = WeightWatch(model)
    with (
        MetricsRecorder(job.folder, found.step) as recorder,
        catch_stop_signals() as stop,
    ):
        trainer = PackedTrainer(
            model=model,
            args=build_arguments(
                job.stage,
                folder=job.folder,
                compute=job.compute,
                steps=schedule.steps,
                seed=job.recipe.seed,
                validate=len(data.validation) > 0,
            ),
            dataset=PlannedBatches(data.train, schedule.batches),
            schedule=schedule,
            validation=_validation_batches(job, data),
            checkpoints=job.checkpoints,
            keep_last=job.stage.keep_last,
            recorder=recorder,
            stop=stop,
            tokenizer=tokenizer,
        )
        trainer.train(resume_from_checkpoint=str(found.path) if found.path else None)
    if stop or trainer.state.global_step < schedule.steps:
        raise InterruptedRunError(
            f"stopped after step {trainer.state.global_step} of {schedule.steps}; all is saved",
            hint=f"go on with: {job.command}",
        )
    moved = watch.check_moved(model)
    with publish_folder(job.final) as folder:
        trainer.write_model(folder)
        write_manifest(folder, {"step": schedule.steps})
    return _summarize(trainer, schedule, (trainable, total), moved)


def build_model(job: TrainingJob) -> Any:
    """Load the model for training: packed attention, scoring head, adapters where asked for."""
    register_attention()
    attention, reason = choose_attention(job.recipe.model.attention, job.compute.device)
    say(f"attention: {attention} ({reason})")
    set_seed(job.recipe.seed)
    adapters = job.recipe.tuning == "lora"

    def prepare(model: Any) -> None:
        check_packable(model.config)
        prepare_packed(model)
        if job.stage.activation_checkpointing:
            _enable_checkpointing(model)

    model = load_model(
        job.recipe.model,
        attention=f"posttrain_{attention}",
        dtype=weight_dtype(job.recipe.tuning, job.compute.precision),
        prepare=prepare,
        train_adapter=adapters,
    )
    if not hasattr(model, "peft_config"):
        return add_lora(model, job.recipe.lora) if adapters else model
    if adapters:
        say("going on with the adapter that the model folder holds; `lora` is not used")
        return model
    # Full tuning on top of an adapter: its update becomes part of the weights first.
    return model.merge_and_unload().requires_grad_(True)


def _enable_checkpointing(model: Any) -> None:
    # transformers renamed it after 5.17 and warns of the old name.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def weight_dtype(tuning: str, precision: str) -> str:
    """Number format of the model's weights: trained ones are fp32, frozen ones need not be."""
    return "bfloat16" if tuning == "lora" and precision == "bf16" else "float32"


def describe_data(data: PreparedData) -> None:
    """Say what became of every row, and what the mask audit found."""
    report = data.report
    for source in report["sources"]:
        say(
            f"data: {source['path']}: {source['rows']:,} rows, {source['format']}"
            f" ({source['evidence']})"
        )
    rejected = sum(report["rejects"].values())
    say(
        f"data: {report['rows_read']:,} rows read = {report['examples']['train']:,} train + "
        f"{report['examples']['validation']:,} validation + {report['test_rows']:,} test + "
        f"{rejected:,} not used"
    )
    for reason, count in report["rejects"].items():
        say(f"data:   {count:,} not used: {reason} (see rejects.jsonl)")
    if contamination := report["contamination"]:
        say(
            f"contamination: {contamination['matched_rows']:,} of "
            f"{contamination['training_rows']:,} training rows are among "
            f"{contamination['evaluation_problems']:,} evaluation problems"
            + (f": {_ACTIONS[contamination['action']]}" if contamination["matched_rows"] else "")
        )
    say(
        f"data: {report['tokens']:,} tokens, {report['trained_tokens']:,} of them trained "
        f"({report['trained_tokens'] / report['tokens']:.0%})"
    )
    for check in report["audit"]:
        say(
            f"mask audit: {check['name']}: {check['checked'] - check['failures']:,} of "
            f"{check['checked']:,} pass"
        )


_ACTIONS = {"drop": "dropped", "report": "kept, as the recipe says"}


def _copy_data_report(data: PreparedData, folder: Path) -> None:
    with publish_folder(folder) as building:
        for name in ("report.json", "rejects.jsonl", "test.jsonl"):
            shutil.copyfile(data.folder / name, building / name)


def _say_start(
    job: TrainingJob, schedule: Schedule, trainable: int, total: int, found: FoundCheckpoint
) -> None:
    say(
        f"training: {job.recipe.tuning}, {trainable:,} of {total:,} parameters; "
        f"{len(schedule.batches):,} batches of up to {job.stage.batch_tokens:,} tokens, "
        f"{schedule.steps:,} steps; {job.compute.device} {job.compute.precision} with "
        f"{job.compute.threads} threads"
    )
    for line in found.skipped:
        say(f"checkpoint passed over: {line}")
    if found.path:
        say(f"going on from step {found.step} of {schedule.steps} ({found.path})")
    elif found.skipped:
        say("no checkpoint is intact: starting at the beginning")


def _validation_batches(job: TrainingJob, data: PreparedData) -> PlannedBatches | None:
    if not len(data.validation):
        return None
    once = job.stage.model_copy(update={"epochs": 1.0, "steps": None})
    return PlannedBatches(data.validation, build_schedule(data.validation, once, seed=0).batches)


def _summarize(
    trainer: PackedTrainer, schedule: Schedule, parameters: tuple[int, int], moved: float
) -> TrainingSummary:
    """Add up what was done, by interrupted attempts too."""
    tokens, trained_tokens, _ = schedule.done(schedule.steps)
    seconds = trainer.total_step_seconds
    losses = trainer.logged_losses
    return TrainingSummary(
        steps=schedule.steps,
        tokens=tokens,
        trained_tokens=trained_tokens,
        tokens_per_second=tokens / seconds,
        trained_tokens_per_second=trained_tokens / seconds,
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        trainable_parameters=parameters[0],
        total_parameters=parameters[1],
        moved_share=moved,
        earlier_seconds=trainer.recorder.seconds_before,
    )
