"""What a training stage will train, counted and checked without building weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from posttrain.config.recipe import Recipe
from posttrain.config.train import TrainingStage
from posttrain.models.load import find_model, is_adapter, load_base_config
from posttrain.models.lora import shape_adapter
from posttrain.models.memory import WeightBytes, weigh_frozen
from posttrain.training.guards.start import count_parameters
from posttrain.training.model import check_rows_whole, choose_trained
from posttrain.training.optimizers import weigh_state

_HEADS = {"mlm": "MaskedLM", "reward": "SequenceClassification"}
_TASKS = {"mlm": None, "reward": "SEQ_CLS"}


def check_tuning(recipe: Recipe) -> None:
    """Look for every module and layer that a recipe names, before hours are spent on data.

    Raises:
        ConfigError: One is not there, nothing is left to train, or rows are shared out.
        CheckpointError: The model cannot be found or read.
    """
    stages = [stage for stage in recipe.stages if isinstance(stage, TrainingStage)]
    for tuned in map(recipe.tuned_for, stages):
        if tuned.tuning != "full" and isinstance(tuned.lora.train_rows, tuple):
            check_rows_whole(tuned, tuned.lora.train_rows)
    named = [stage for stage in stages if _names_modules(recipe.tuned_for(stage))]
    config = load_base_config(recipe.model) if named else None
    for stage in named:
        tuned = settle_tuning(recipe, stage)
        if tuned.lora.train_rows not in ("auto", "added"):  # tokens that may yet be made
            tuned = tuned.model_copy(
                update={"lora": tuned.lora.model_copy(update={"train_rows": ()})}
            )
        count_stage_parameters(tuned, stage, config)


def _names_modules(tuned: Recipe) -> bool:
    lora = tuned.lora
    if tuned.tuning == "full":
        return bool(tuned.train_only or tuned.freeze)
    parts = (lora.layers, lora.rank_pattern, lora.alpha_pattern, lora.train_in_full)
    return isinstance(lora.targets, tuple) or any(parts)


def settle_tuning(recipe: Recipe, stage: Any) -> Recipe:
    """What the stage will train: rows of added tokens only where nothing before it has."""
    tuned = recipe.tuned_for(stage)
    if _starts_at_base(recipe, stage) or tuned.lora.train_rows not in ("auto", "added"):
        return tuned
    return tuned.model_copy(update={"lora": tuned.lora.model_copy(update={"train_rows": ()})})


def _starts_at_base(recipe: Recipe, stage: Any) -> bool:
    """Whether only adapters come between the recipe's model and the stage."""
    before = recipe.stage_before(stage)
    while recipe.leaves_adapter(before):
        before = recipe.stage_before(before)  # type: ignore[arg-type] # it leaves an adapter
    return before is None


def shape_model(
    recipe: Recipe, stage: Any, config: Any, prepare: Callable[[Any], None], **options: Any
) -> Any:
    """Build a stage's model, adapters included, on the device in force and without its weights.

    Args:
        recipe: As ``Recipe.tuned_for`` returns it for the stage.
        stage: A training stage.
        config: The model's transformers config.
        prepare: Called with the model before adapters are put around it.
        options: Of transformers' ``from_config``.
    """
    import transformers

    head = _HEADS.get(stage.stage, "CausalLM")
    if head == "SequenceClassification":
        config = copy.deepcopy(config)
        config.num_labels = 1
    model = getattr(transformers, f"AutoModelFor{head}").from_config(
        config, trust_remote_code=recipe.model.trust_remote_code, **options
    )
    model.tie_weights()
    prepare(model)
    task = _TASKS.get(stage.stage, "CAUSAL_LM")
    place = find_model(recipe.model.path)
    if is_adapter(place) and recipe.tuning != "full" and _starts_at_base(recipe, stage):
        return shape_adapter(model, place, task)
    return choose_trained(recipe, model, task)


def count_stage_parameters(recipe: Recipe, stage: Any, config: Any) -> tuple[int, int, WeightBytes]:
    """Count what a stage will train, from shapes alone: the model is built without memory.

    Args:
        recipe: As ``Recipe.tuned_for`` returns it for the stage.
        stage: A training stage.
        config: The model's transformers config.

    Returns:
        Total and trainable parameters, and what holding them takes.
    """
    import torch

    bf16 = recipe.compute.arithmetic == "bf16"
    frozen = 0.0

    def weigh(model: Any) -> None:
        nonlocal frozen
        frozen = weigh_frozen(model, nf4=recipe.tuning == "qlora", bf16=bf16)

    with torch.device("meta"):
        model = shape_model(recipe, stage, config, weigh)
    value_head = config.get_text_config().hidden_size + 1 if stage.stage == "ppo" else 0
    trainable, total = count_parameters(model)
    trainable, total = trainable + value_head, total + value_head
    state = weigh_state(model, stage) / trainable
    if recipe.tuning == "full":
        each = 2 if recipe.compute.weights == "bf16" else 4
        return total, trainable, WeightBytes(trained=each, frozen=each, optimizer=state)
    return total, trainable, WeightBytes(frozen=frozen, optimizer=state)
