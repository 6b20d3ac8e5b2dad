"""A recipe: one model, and the stages that it goes through in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, NonNegativeInt, model_validator

from posttrain.config.base import Config, ConfigPath, StageName
from posttrain.config.data import SampleDataStage, SourceConfig
from posttrain.config.evaluation import EvaluateStage
from posttrain.config.export import MergeStage, QuantizeStage
from posttrain.config.harness import HarnessStage
from posttrain.config.items import GenerateItemsStage
from posttrain.config.keeping import UploadPlace
from posttrain.config.model import (
    ComputeConfig,
    LoraConfig,
    ModelConfig,
    ModulePattern,
    ParallelConfig,
    Tuning,
)
from posttrain.config.pairs import PairsStage
from posttrain.config.tracking import TrackingConfig
from posttrain.config.train import TRAINING_STAGES, AnyTrainingStage, MlmStage, TrainingStage
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
    tuning: Tuning = "full"
    """What is trained: every weight, low-rank adapters, or these on a model held in four bits. A
    training stage may have its own `tuning`, `lora`, `train_only` and `freeze`."""
    lora: LoraConfig = LoraConfig()
    train_only: tuple[ModulePattern, ...] = ()
    """Of full tuning: modules to train instead of all, such as `[layers.20-27, lm_head]`."""
    freeze: tuple[ModulePattern, ...] = ()
    """Of full tuning: modules to leave as they are, such as `[embed_tokens, layers.0-11]`."""
    compute: ComputeConfig = ComputeConfig()
    parallel: ParallelConfig = ParallelConfig()
    """How several processes share the training stages."""
    tracking: TrackingConfig = TrackingConfig()
    """Services that are told of the metrics."""
    upload_to: UploadPlace | None = None
    """Folder or URL (`s3://bucket/folder`) that finished checkpoints and models are copied to in
    the background; keys come from the environment."""
    stop_after_minutes: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Save and stop after this time, as at Ctrl-C; the same command goes on."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """Run in order; each takes up where the last one's output is."""

    @model_validator(mode="before")
    @classmethod
    def _complete_stage_lora(cls, values: Any) -> Any:
        """Let a stage's `lora` say only what is different from the recipe's."""
        if not isinstance(values, dict):
            return values
        whole, stages = values.get("lora"), values.get("stages")
        if not isinstance(whole, dict) or not isinstance(stages, list):
            return values
        return values | {"stages": [_complete_lora(stage, whole) for stage in stages]}

    @model_validator(mode="after")
    def _check_tuning(self) -> Recipe:
        training = [stage for stage in self.stages if isinstance(stage, TrainingStage)]
        adapted = [stage for stage in training if self.tuned_for(stage).tuning != "full"]
        parts: list[tuple[str, Recipe | AnyTrainingStage]] = [
            (f"stage `{stage.name}`: ", stage) for stage in adapted
        ]
        if training and len(adapted) == len(training):
            parts.append(("", self))
        for where, part in parts:
            if part.train_only or part.freeze:
                key = "train_only" if part.train_only else "freeze"
                raise ValueError(
                    f"{where}`{key}` is of `tuning: full`; adapters go where `lora.targets` and "
                    "`lora.layers` say, and nothing else moves"
                )
        for stage in adapted:
            before = self.stage_before(stage)
            if stage.lora is None or not isinstance(before, TrainingStage):
                continue
            held = self.tuned_for(before).lora.model_copy(
                update={"plus_ratio": stage.lora.plus_ratio}  # of the learning, not of the adapter
            )
            if self.leaves_adapter(before) and stage.lora != held:
                raise ValueError(
                    f"stage `{stage.name}`: goes on with the adapter of stage `{before.name}`, so "
                    "its `lora` cannot be another; put a `merge` stage between them"
                )
        return self

    @model_validator(mode="after")
    def _check_optimizers(self) -> Recipe:
        shared = self.parallel.strategy != "ddp" or self.parallel.deepspeed is not None
        bf16 = self.compute.weights == "bf16"
        training = [stage for stage in self.stages if isinstance(stage, TrainingStage)]
        tunings = {self.tuned_for(stage).tuning for stage in training} or {self.tuning}
        if bf16 and "full" not in tunings:
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

    def tuned_for(self, stage: AnyTrainingStage) -> Recipe:
        """Return the recipe with what one training stage says of tuning in the place of its own.

        A stage that goes on with the adapter of an earlier one has the `lora` of that stage.
        """
        own = {name: getattr(stage, name) for name in ("tuning", "lora", "train_only", "freeze")}
        tuned = self.model_copy(update={n: value for n, value in own.items() if value is not None})
        before = self.stage_before(stage)
        if (
            stage.lora is None
            and tuned.tuning != "full"
            and isinstance(before, TrainingStage)
            and self.leaves_adapter(before)
        ):
            own_ratio = {"plus_ratio": tuned.lora.plus_ratio}  # of the learning, not of the adapter
            held = self.tuned_for(before).lora.model_copy(update=own_ratio)
            return tuned.model_copy(update={"lora": held})
        return tuned

    def stage_before(self, stage: AnyTrainingStage) -> Stage | None:
        """Find the stage whose model a training stage takes up; None for the recipe's own model."""
        kinds = ("mlm",) if isinstance(stage, MlmStage) else CHAIN_STAGES
        wanted, found = named_parent(stage), None
        for earlier in self.stages:
            if earlier.name == stage.name:
                break
            if earlier.name == wanted or (wanted is None and earlier.stage in kinds):
                found = earlier
        return found

    def leaves_adapter(self, stage: Stage | None) -> bool:
        """Whether what a stage makes is an adapter."""
        return isinstance(stage, TrainingStage) and self.tuned_for(stage).tuning != "full"


def _complete_lora(stage: Any, whole: dict[str, Any]) -> Any:
    own = stage.get("lora") if isinstance(stage, dict) else None
    return stage | {"lora": whole | own} if isinstance(own, dict) else stage


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
