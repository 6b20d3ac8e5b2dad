"""A recipe's arithmetic, spelled out before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from posttrain.config.recipe import Recipe
from posttrain.config.train import SftStage
from posttrain.data.prepare import PreparedData
from posttrain.logs import format_bytes
from posttrain.models.load import load_model_config
from posttrain.models.lora import count_lora_parameters
from posttrain.models.memory import estimate_memory
from posttrain.runs.prepare import prepare_stages
from posttrain.training.batches import build_schedule


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
    if any(isinstance(stage, SftStage) for stage in recipe.stages):
        config = load_model_config(recipe.model)
        for stage, data, _ in prepare_stages(recipe):
            lines += ["", f"stage {stage.name}:", *_plan_stage(recipe, stage, data, config)]
    return "\n".join(lines)


def _plan_stage(recipe: Recipe, stage: SftStage, data: PreparedData, config: Any) -> Iterator[str]:
    schedule = build_schedule(data.train, stage, seed=recipe.seed)
    report = data.report
    batches, tokens = len(schedule.batches), int(schedule.batch_size_tokens.sum())
    passes = schedule.done(schedule.steps)[2]
    per_pass = int(data.train.lengths.sum())
    yield (
        f"  rows        {report['rows_read']:,} read -> {len(data.train):,} train + "
        f"{len(data.validation):,} validation + {report['test_rows']:,} test + "
        f"{sum(report['rejects'].values()):,} not used"
    )
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
    total, trainable = _count_parameters(recipe, config)
    yield f"  parameters  {trainable:,} of {total:,} trainable ({recipe.tuning})"
    memory = estimate_memory(
        config,
        total_parameters=total,
        trainable_parameters=trainable,
        frozen_bytes=2 if recipe.compute.precision == "bf16" else 4,
        batch_tokens=int(schedule.batch_size_tokens.max()),
        activation_checkpointing=stage.activation_checkpointing,
    )
    yield (
        f"  memory      about {format_bytes(memory.total)}: weights "
        f"{format_bytes(memory.weights)}, gradients {format_bytes(memory.gradients)}, optimizer "
        f"{format_bytes(memory.optimizer)}, activations {format_bytes(memory.activations)}, head "
        f"{format_bytes(memory.head)}, process {format_bytes(memory.process)}"
    )


def _count_parameters(recipe: Recipe, config: Any) -> tuple[int, int]:
    """Total and trainable parameters, from shapes alone."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=recipe.model.trust_remote_code
        )
    model.tie_weights()
    total = sum(parameter.numel() for parameter in model.parameters())
    if recipe.tuning == "full":
        return total, total
    added = count_lora_parameters(model, recipe.lora)
    return total + added, added
