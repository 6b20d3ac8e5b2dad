"""A recipe's arithmetic, spelled out before anything is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import yaml

from posttrain.config.model import ParallelConfig
from posttrain.config.recipe import Recipe
from posttrain.config.train import FixedDataStage, GrpoStage, OnlineStage, PpoStage, TrainingStage
from posttrain.data.prepare import PreparedData
from posttrain.logs import format_bytes
from posttrain.models.load import load_base_config
from posttrain.models.memory import MemoryEstimate, estimate_memory, weigh_cache
from posttrain.runs.prepare import prepare_stages
from posttrain.runs.rehearsal import NotRehearsedError, build_round, rehearse_step
from posttrain.runs.room import find_batch_tokens
from posttrain.runs.tuning import count_stage_parameters, settle_tuning
from posttrain.training.arguments import check_passed_on
from posttrain.training.batches import Schedule, build_schedule
from posttrain.training.model import foresee_attention
from posttrain.training.rewards import check_references
from posttrain.training.rollouts import SIDE_BY_SIDE, check_room
from posttrain.training.schedules import plan_rates


def plan_recipe(recipe: Recipe) -> str:
    """Resolve a recipe and count what its training stages will do.

    The data is prepared (and cached for the run), so the counts are exact; the model is built
    without memory, on torch's meta device.

    Args:
        recipe: Checked.

    Returns:
        Text for the terminal.

    Raises:
        PosttrainError: Unusable data or model.
    """
    shown = yaml.safe_dump(
        recipe.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
    )
    lines = [shown.rstrip()]
    if any(isinstance(stage, TrainingStage) for stage in recipe.stages):
        config = load_base_config(recipe.model)
        for stage, data, _ in prepare_stages(recipe):
            tuned = settle_tuning(recipe, stage)
            plan = (
                [f"  {data}"] if isinstance(data, str) else _plan_stage(tuned, stage, data, config)
            )
            lines += ["", f"stage {stage.name}:", *plan]
    return "\n".join(lines)


def _plan_stage(recipe: Recipe, stage: Any, data: PreparedData, config: Any) -> Iterator[str]:
    check_passed_on(stage, device=recipe.compute.device)
    report = data.report
    yield (
        f"  rows        {report['rows_read']:,} read = {report['rows_used']:,} used + "
        f"{report['test_rows']:,} test + {sum(report['rejects'].values()):,} not used"
    )
    yield (f"  examples    {len(data.train):,} train + {len(data.validation):,} validation")
    if isinstance(stage, GrpoStage | PpoStage):
        check_room(stage, data.train)
        check_references(stage.rewards, data.train)
        yield from _plan_rollouts(stage, data)
        steps = stage.all_steps
        heaviest = build_round(int(data.train.lengths.max()), stage)
    else:
        if stage.batch_tokens == "auto":
            tokens, reason = find_batch_tokens(recipe, stage, data, config)
            stage = stage.model_copy(update={"batch_tokens": tokens})
            yield f"  batch       auto: {tokens:,} tokens here and now ({reason})"
        schedule = build_schedule(data.train, stage, seed=recipe.seed)
        yield from _plan_batches(stage, data, schedule)
        steps = schedule.steps
        heaviest = data.train.batch(schedule.batches[int(schedule.batch_size_tokens.argmax())])
    total, trainable, held = count_stage_parameters(recipe, stage, config)
    yield f"  parameters  {trainable:,} of {total:,} trainable ({recipe.tuning})"
    yield f"  optimizer   {_describe_rates(stage, steps)}"
    if getattr(stage, "engine", "local") == "local":
        attention = foresee_attention(recipe, recipe.model)
        yield f"  attention   {attention or 'is settled where the GPU is'}"
    again = isinstance(stage, FixedDataStage) and stage.accumulate > 1
    weigh = partial(
        estimate_memory, total_parameters=total, trainable_parameters=trainable, held=held
    )
    try:
        memory = weigh(step=rehearse_step(recipe, stage, config, heaviest, again=again))
        parts = (f"{name} {format_bytes(size)}" for name, size in asdict(memory).items())
        yield f"  memory      about {format_bytes(memory.total)}: {', '.join(parts)}"
    except NotRehearsedError as error:
        memory = weigh(step=Counter(gradients=held.trained * trainable))
        yield (
            f"  memory      could not be estimated: {error}; weights, gradients and optimizer "
            f"alone take {format_bytes(memory.total)} with the process"
        )
    if isinstance(stage, GrpoStage | PpoStage):
        yield from _plan_writing(stage, data, config, memory)
    if recipe.parallel.strategy != "ddp":
        yield _plan_sharing(recipe.parallel, memory)


def _plan_writing(
    stage: OnlineStage, data: PreparedData, config: Any, memory: MemoryEstimate
) -> Iterator[str]:
    """Say what a round takes besides: answers while they are written, and the reference."""
    longest = int(data.train.lengths.max()) + stage.max_new_tokens
    side_by_side = min(SIDE_BY_SIDE, stage.prompts_per_rollout * stage.completions)
    cache = weigh_cache(config, side_by_side, longest)
    total = memory.process + memory.weights + memory.optimizer + cache
    yield (
        f"  writing     about {format_bytes(total)} while answers are written: "
        f"{format_bytes(cache)} for {side_by_side:,} of up to {longest:,} tokens side by side"
    )
    if stage.kl_weight:
        yield f"  reference   {format_bytes(memory.weights)} more, all the time"


def _describe_rates(stage: TrainingStage, steps: int) -> str:
    rates = plan_rates(stage, steps)
    return (
        f"{stage.optimizer}, learning rate {stage.schedule}: {rates[0]:.1e} in the first step, "
        f"{max(rates):.1e} at most (step {rates.index(max(rates)) + 1:,}), {rates[-1]:.1e} in the "
        "last"
    )


def _plan_sharing(parallel: ParallelConfig, memory: MemoryEstimate) -> str:
    """Say what DeepSpeed would leave on each of several devices."""
    shared = ["gradients", "optimizer", *(["weights"] if parallel.strategy == "zero3" else [])]
    moved = {"none": [], "optimizer": ["optimizer"], "all": ["optimizer", "weights"]}
    outside = [part for part in moved[parallel.offload] if part in shared]
    size = asdict(memory)
    away = sum(size[part] for part in outside) / _DEVICES
    kept = memory.total - sum(size[part] for part in shared) * (1 - 1 / _DEVICES) - away
    behind = f", and {format_bytes(round(away))} for it in CPU memory" if outside else ""
    return (
        f"  sharing     {parallel.strategy}: with {_DEVICES} processes about "
        f"{format_bytes(round(kept))} on each device{behind}; a step takes {_DEVICES} times the "
        "batches"
    )


def _plan_batches(stage: FixedDataStage, data: PreparedData, schedule: Schedule) -> Iterator[str]:
    assert stage.batch_tokens != "auto"
    batches, tokens = len(schedule.batches), int(schedule.batch_size_tokens.sum())
    passes = schedule.done(schedule.steps).epochs
    per_pass = int(data.train.lengths.sum())
    yield (
        f"  tokens      {len(data.train):,} examples x {per_pass / len(data.train):.1f} tokens = "
        f"{per_pass:,} a pass, {data.train.trained_tokens:,} of them trained"
    )
    yield (
        f"  batches     {passes:.2f} passes = {tokens:,} tokens -> {batches:,} batches of up to "
        f"{stage.batch_tokens:,} tokens ({tokens / (batches * stage.batch_tokens):.1%} full)"
    )
    yield (
        f"  steps       {batches:,} batches / {stage.accumulate} accumulated = "
        f"{schedule.steps:,} optimizer steps"
    )


def _plan_rollouts(stage: OnlineStage, data: PreparedData) -> Iterator[str]:
    answers = stage.prompts_per_rollout * stage.completions
    passes = stage.rollouts * stage.prompts_per_rollout / len(data.train)
    yield (
        f"  rollouts    {stage.rollouts:,} rounds x {stage.prompts_per_rollout:,} prompts x "
        f"{stage.completions:,} answers = {stage.rollouts * answers:,} answers of up to "
        f"{stage.max_new_tokens:,} tokens ({passes:.2f} passes over the prompts)"
    )
    yield (
        f"  steps       {stage.rollouts:,} rounds x {stage.passes_per_rollout} passes x "
        f"{stage.updates_per_rollout} updates = {stage.all_steps:,} optimizer steps"
    )


# For the example of what sharing saves: one usual machine.
_DEVICES = 8
