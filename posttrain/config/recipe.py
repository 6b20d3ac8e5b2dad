"""A recipe: one model, and the stages that it goes through in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, NonNegativeInt, model_validator

from posttrain.config.base import Config, ConfigPath, StageName
from posttrain.config.data import SampleDataStage, SourceConfig
from posttrain.config.evaluation import EvaluateStage
from posttrain.config.export import MergeStage, QuantizeStage
from posttrain.config.harness import HarnessStage
from posttrain.config.items import GenerateItemsStage
from posttrain.config.model import ComputeConfig, LoraConfig, ModelConfig, ParallelConfig
from posttrain.config.pairs import PairsStage
from posttrain.config.tracking import TrackingConfig
from posttrain.config.train import TRAINING_STAGES, AnyTrainingStage, TrainingStage
from posttrain.config.vocabulary import ExtendTokenizerStage

_Part = TypeVar("_Part", bound=BaseModel)
Stage = Annotated[
    SampleDataStage
    | AnyTrainingStage
    | EvaluateStage
    | HarnessStage
    | GenerateItemsStage
    | PairsStage
    | ExtendTokenizerStage
    | MergeStage
    | QuantizeStage,
    Field(discriminator="stage"),
]

MODEL_STAGES = (*TRAINING_STAGES, "extend-tokenizer", "merge", "quantize")
"""Kinds that make a model; a later stage may name any of them."""
CHAIN_STAGES = ("pretrain", "sft", "dpo", "grpo", "ppo", "extend-tokenizer", "merge")
"""Kinds whose model the next stage takes up without being told."""
PREPARING_STAGES = ("sample-data", "extend-tokenizer", "pairs")
"""Kinds that training stages need before them."""
FILE_STAGES = ("sample-data", "pairs", "generate-items")
"""Kinds that make a file of rows."""


class Recipe(Config):
    """From data to a measured model, in one file."""

    name: StageName
    """Name of the run's folder."""
    output: ConfigPath | None = None
    """Folder of all runs; `$POSTTRAIN_RUNS` or `runs` in the current folder where absent."""
    seed: NonNegativeInt = 0
    """Of the data order, dropout and new weights."""
    model: ModelConfig
    tuning: Literal["full", "lora", "qlora"] = "full"
    """What is trained: every weight, low-rank adapters, or these on a model held in four bits."""
    lora: LoraConfig = LoraConfig()
    compute: ComputeConfig = ComputeConfig()
    parallel: ParallelConfig = ParallelConfig()
    """How several processes share the training stages."""
    tracking: TrackingConfig = TrackingConfig()
    """Services that are told of the metrics."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """Run in order; each takes up where the last one's output is."""

    @model_validator(mode="after")
    def _check_optimizers(self) -> Recipe:
        shared = self.parallel.strategy != "ddp" or self.parallel.deepspeed is not None
        bf16 = self.compute.weights == "bf16"
        if bf16 and self.tuning != "full":
            raise ValueError(
                "`compute.weights: bf16` is of `tuning: full`; beside adapters the frozen weights "
                "follow `compute.precision`, and adapters are fp32"
            )
        if bf16 and shared:
            raise ValueError("`compute.weights: bf16` works with `parallel.strategy: ddp` alone")
        for stage in self.stages:
            if shared and isinstance(stage, TrainingStage) and stage.optimizer != "adamw":
                raise ValueError(
                    f"stage `{stage.name}`: `optimizer: {stage.optimizer}` needs whole matrices, "
                    "and they are shared out; use `parallel.strategy: ddp` or `optimizer: adamw`"
                )
        return self

    @model_validator(mode="after")
    def _check_stage_references(self) -> Recipe:
        seen: dict[str, str] = {}
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(
                    f"two stages are named `{stage.name}`; give one of them another `name`"
                )
            if stage.name == "base" and stage.stage in MODEL_STAGES:
                raise ValueError(
                    "a stage with a model cannot be named `base`, which is the recipe's own model"
                )
            for key, name, kinds in _references(stage):
                if seen.get(name) not in kinds:
                    raise ValueError(
                        f"stage `{stage.name}`: `{key}: {name}` names no earlier stage that is "
                        f"{' or '.join(kinds)}"
                    )
            seen[stage.name] = stage.stage
        return self


def _references(stage: Stage) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield every (key, stage name, kinds allowed) by which a stage refers to an earlier one."""
    if (parent := named_parent(stage)) and parent != "base":
        if hasattr(stage, "start_from"):
            # Reward models and encoders write no text: only their own kind goes on with them.
            kinds = (k for k in MODEL_STAGES if k not in ("reward", "mlm") or k == stage.stage)
            yield "start_from", parent, tuple(kinds)
        else:
            yield "model_from", parent, MODEL_STAGES
    if compared := getattr(stage, "compare_to", None):
        yield "compare_to", compared, ("evaluate",)
    rewards = getattr(stage, "rewards", None)
    if rewards and rewards.model_from:
        yield "rewards.model_from", rewards.model_from, ("reward",)
    for source in stage_sources(stage):
        if source.from_stage:
            yield "from_stage", source.from_stage, FILE_STAGES


def named_parent(stage: Stage) -> str | None:
    """Return the stage (or `base`) whose model a stage says it takes up."""
    return getattr(stage, "start_from", None) or getattr(stage, "model_from", None)


def stage_sources(part: BaseModel) -> Iterator[SourceConfig]:
    """Yield every file source inside a stage."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, SourceConfig):
                yield item
            elif isinstance(item, BaseModel):
                yield from stage_sources(item)


def replace_sources(part: _Part, replace: Callable[[SourceConfig], SourceConfig]) -> _Part:
    """Return a stage, or a part of one, with every file source inside replaced."""
    update = {name: _replace(getattr(part, name), replace) for name in type(part).model_fields}
    return part.model_copy(update=update)


def _replace(value: Any, replace: Callable[[SourceConfig], SourceConfig]) -> Any:
    if isinstance(value, SourceConfig):
        return replace(value)
    if isinstance(value, BaseModel):
        return replace_sources(value, replace)
    if isinstance(value, tuple):
        return tuple(_replace(item, replace) for item in value)
    return value
