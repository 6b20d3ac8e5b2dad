"""The training stages: pretrain, mlm, sft, reward, dpo, grpo, ppo."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from posttrain.config.recipe import Recipe
from posttrain.config.train import AnyTrainingStage, FixedDataStage, GrpoStage, PpoStage
from posttrain.data.prepare import PreparedData
from posttrain.errors import ConfigError
from posttrain.files import load_json, write_json
from posttrain.logs import log_file, say
from posttrain.runs.kinds.kind import Kind, StageContext
from posttrain.runs.progress import Progress
from posttrain.runtime import describe_environment, is_main_process

# Kind of stage -> (module, function); torch is imported when one is run.
_TRAINERS = {
    "pretrain": ("posttrain.training.pretrain", "train_pretrain"),
    "mlm": ("posttrain.training.mlm", "train_mlm"),
    "sft": ("posttrain.training.sft", "train_sft"),
    "reward": ("posttrain.training.reward", "train_reward"),
    "dpo": ("posttrain.training.preference", "train_dpo"),
    "grpo": ("posttrain.training.online", "train_online"),
    "ppo": ("posttrain.training.online", "train_online"),
}


def _check(stage: AnyTrainingStage, progress: Progress) -> None:
    from posttrain.data.prepare import prepare_data
    from posttrain.models.load import load_base_config, load_tokenizer
    from posttrain.models.masked import check_encoder
    from posttrain.models.packing import is_encoder
    from posttrain.models.vocabulary import check_vocabulary
    from posttrain.training.arguments import check_passed_on
    from posttrain.training.model import foresee_attention
    from posttrain.training.processes import build_deepspeed

    build_deepspeed(progress.recipe.parallel)
    check_passed_on(stage, device=progress.recipe.compute.device)
    model = progress.model_for(stage)
    if isinstance(stage, GrpoStage | PpoStage) and stage.engine == "verl":
        from posttrain.training.verl import check_verl

        check_verl(progress.recipe.tuned_for(stage).model_copy(update={"model": model}), stage)
    tokenizer = load_tokenizer(model)
    config = load_base_config(model)
    if stage.stage == "mlm":
        check_encoder(config, tokenizer, model.path)
    elif is_encoder(config):
        raise ConfigError(
            f"model {model.path}: {config.model_type} is an encoder and writes no text",
            hint="use `stage: mlm` for it",
        )
    check_vocabulary(tokenizer, config, model.path)
    if getattr(stage, "engine", "local") == "local":
        foresee_attention(progress.recipe, model)
    if stage.evaluation is not None:
        from posttrain.runs.exams import check_exam

        check_exam(progress.recipe, stage.evaluation, tokenizer)
    data = prepare_data(stage.data, tokenizer)
    if data.reused:
        say(f"data: taken from the cache ({data.folder})")
    _check_data(stage, data, progress.recipe.seed)


def _check_data(stage: AnyTrainingStage, data: Any, seed: int) -> None:
    """Compare a stage's settings with the amount and kind of its data."""
    from posttrain.training.guards.start import check_validation
    from posttrain.training.optimizers import check_optimizer

    if isinstance(stage, GrpoStage | PpoStage) and stage.engine == "local":
        from posttrain.training.rewards import check_references
        from posttrain.training.rollouts import check_room

        check_room(stage, data.train)
        for part in (data.train, data.validation):
            check_references(stage.rewards, part)
    check_validation(stage, len(data.validation))
    if isinstance(stage, FixedDataStage):
        steps = _count_steps(stage, data, seed)
        check_optimizer(stage, steps)
    else:
        check_optimizer(stage, stage.all_steps)


def _run(stage: AnyTrainingStage, context: StageContext) -> dict[str, Any]:
    """Train, and write the lineage of the model."""
    from posttrain.models.trained_template import find_trained_template
    from posttrain.training.budget import memory_errors
    from posttrain.training.guards.rollback import ROLLBACKS_FILE
    from posttrain.training.model import foresee_attention

    progress, folder = context.progress, context.folder
    if is_main_process():
        write_json(folder / "environment.json", describe_environment(context.compute))
    job = build_job(stage, context)
    stage, recipe = job.stage, job.recipe
    if getattr(stage, "engine", "local") == "verl":
        from posttrain.training.verl import export_verl

        return {"summary": export_verl(job)}
    train = find_trainer(stage)
    job = replace(job, planned_trainable=_plan_trainable(job), exam=_build_exam(job))
    log = log_file(folder / "train.log") if is_main_process() else contextlib.nullcontext()
    with log, memory_errors(stage.name):
        summary = asdict(train(job))
    if not is_main_process():
        return {}
    summary |= summary.pop("validation")
    report = load_json(folder / "data" / "report.json")
    if "validation_pair_accuracy" in summary:
        _judge_pairs(folder, summary, report["examples"]["validation"])
    parent = progress.parent_of(stage)
    write_json(
        folder / "lineage.json",
        {
            "stage": stage.model_dump(mode="json"),
            "tuning": recipe.tuning,
            "attention": str(foresee_attention(recipe, recipe.model)),
            "parent_model": recipe.model.path,
            "parent_digest": progress.models[parent].digest if parent else recipe.model.path,
            "data_digest": report["digest"],
            "chat_template": find_trained_template(job.final),
            "data_files": [source["path"] for source in report["sources"]],
            "seed": recipe.seed,
            "weights": load_json(job.final / "MANIFEST.json")["files"],
            "rollbacks": load_json(path) if (path := folder / ROLLBACKS_FILE).is_file() else [],
            "environment": describe_environment(context.compute),
        },
    )
    return {"summary": summary, "model": "final"}


def build_job(stage: AnyTrainingStage, context: StageContext) -> Any:
    """Settle what a stage starts from and what it is tuned by.

    Returns:
        A ``TrainingJob``.
    """
    from posttrain.training.stage import TrainingJob

    progress = context.progress
    start = progress.model_for(stage)
    recipe = progress.recipe.tuned_for(stage).model_copy(update={"model": start})
    settled = settle_reward_model(stage, progress)
    if settled.batch_tokens == "auto":
        settled = _settle_batch(recipe, settled, context.folder)
    return TrainingJob(
        recipe, settled, context.folder, context.compute, context.command, context.digest
    )


def _build_exam(job: Any) -> Any:
    """Choose the problems that a model in training is measured on; None where it is not."""
    if job.stage.evaluation is None:
        return None
    from posttrain.models.load import load_tokenizer
    from posttrain.runs.exams import TaskExam

    return TaskExam(
        job.stage.evaluation,
        job.folder,
        load_tokenizer(job.recipe.model),
        model_name=f"{job.recipe.name}/{job.stage.name}",
        save_every_steps=job.stage.save_every_steps,
    )


def _plan_trainable(job: Any) -> int | None:
    """Parameters that the settings mean to be trained; None where an adapter's folder says it."""
    from posttrain.models.load import find_model, is_adapter, load_base_config
    from posttrain.runs.tuning import count_stage_parameters

    model = job.recipe.model
    if is_adapter(find_model(model.path)):
        return None
    return count_stage_parameters(job.recipe, job.stage, load_base_config(model))[1]


def find_trainer(stage: AnyTrainingStage) -> Callable[[Any], Any]:
    """Find the function that trains a kind of stage; it gets the job."""
    module, function = _TRAINERS[stage.stage]
    train: Callable[[Any], Any] = getattr(importlib.import_module(module), function)
    return train


def _count_steps(stage: FixedDataStage, data: PreparedData, seed: int) -> int:
    """Count optimizer steps, and see that every example fits a batch."""
    from posttrain.training.batches import build_schedule

    parts = [part for part in (data.validation, data.train) if len(part)]
    if stage.batch_tokens == "auto":  # at the least
        longest = max(int(part.lengths.max()) for part in parts)
        stage = stage.model_copy(update={"batch_tokens": longest})
    return [build_schedule(part, stage, seed=seed).steps for part in parts][-1]


def _settle_batch(recipe: Recipe, stage: AnyTrainingStage, folder: Path) -> Any:
    from posttrain.data.prepare import prepare_data
    from posttrain.models.load import load_base_config, load_tokenizer
    from posttrain.runs.room import settle_batch_tokens

    data = prepare_data(stage.data, load_tokenizer(recipe.model))
    return settle_batch_tokens(recipe, stage, data, load_base_config(recipe.model), folder)


def settle_reward_model(stage: Any, progress: Progress) -> Any:
    """Put the folder of a reward stage in the place of its name."""
    rewards = getattr(stage, "rewards", None)
    if rewards is None or rewards.model_from is None:
        return stage
    place = str(progress.made_by(rewards.model_from, stage).path)
    settled = rewards.model_copy(update={"model": place, "model_from": None})
    return stage.model_copy(update={"rewards": settled})


def _judge_pairs(folder: Path, summary: dict[str, Any], pairs: int) -> None:
    """Write how often the better of two held-out answers was told from the worse."""
    from posttrain.evaluation.statistics import wilson_interval

    correct = round(summary["validation_pair_accuracy"] * pairs)
    low, high = wilson_interval(correct, pairs)
    say(
        f"held-out pairs: {correct:,} of {pairs:,} in the right order ({correct / pairs:.1%}, "
        f"95 % interval {low:.1%} to {high:.1%})"
    )
    summary["validation_pair_accuracy_interval"] = [low, high]
    write_json(
        folder / "results.json",
        {
            "metric": "pair_accuracy",
            "value": correct / pairs,
            "interval": [low, high],
            "higher_is_better": True,
            "problems": pairs,
            "correct": correct,
        },
    )


def _outputs(stage: AnyTrainingStage, folder: Path) -> list[Path]:
    if getattr(stage, "engine", "local") == "verl":
        return [folder / "verl" / "overrides.txt"]
    return [folder / "final" / "MANIFEST.json"]


TRAINING = {kind: Kind(_run, _outputs, check=_check, makes="model") for kind in _TRAINERS}
