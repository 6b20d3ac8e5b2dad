"""A recipe: one model, and the stages that it goes through in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from posttrain.config.base import Config, ConfigPath, StageName
from posttrain.config.data import SampleDataStage, SourceConfig
from posttrain.config.evaluation import EvaluateStage
from posttrain.config.model import ComputeConfig, LoraConfig, ModelConfig
from posttrain.config.train import TRAINING_STAGES, SftStage

Stage = Annotated[SampleDataStage | SftStage | EvaluateStage, Field(discriminator="stage")]


class Recipe(Config):
    """From data to a measured model, in one file."""

    name: StageName
    """Name of the run's folder."""
    output: ConfigPath | None = None
    """Folder of all runs; `$POSTTRAIN_RUNS` or `runs` in the current folder where absent."""
    seed: NonNegativeInt = 0
    """Of the data order, dropout and new weights."""
    model: ModelConfig
    tuning: Literal["full", "lora"] = "full"
    """What is trained: every weight, or low-rank adapters."""
    lora: LoraConfig = LoraConfig()
    compute: ComputeConfig = ComputeConfig()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """Run in order; each takes up where the last one's output is."""

    @model_validator(mode="after")
    def _check_stage_references(self) -> Recipe:
        seen: dict[str, str] = {}
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(
                    f"two stages are named `{stage.name}`; give one of them another `name`"
                )
            if stage.name == "base" and stage.stage in TRAINING_STAGES:
                raise ValueError(
                    "a training stage cannot be named `base`, which is the model before training"
                )
            for key, name, kinds in _references(stage):
                if seen.get(name) not in kinds:
                    raise ValueError(
                        f"stage `{stage.name}`: `{key}: {name}` names no earlier "
                        f"{' or '.join(kinds)} stage"
                    )
            seen[stage.name] = stage.stage
        return self


def _references(stage: Stage) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield every (key, stage name, kinds allowed) by which a stage refers to an earlier one."""
    if isinstance(stage, SftStage) and stage.start_from:
        yield "start_from", stage.start_from, TRAINING_STAGES
    if isinstance(stage, EvaluateStage):
        if stage.compare_to:
            yield "compare_to", stage.compare_to, ("evaluate",)
        if stage.model_from and stage.model_from != "base":
            yield "model_from", stage.model_from, TRAINING_STAGES
    for source in stage_sources(stage):
        if source.from_stage:
            yield "from_stage", source.from_stage, ("sample-data",)


def stage_sources(stage: Stage) -> Iterator[SourceConfig]:
    """Yield every file source that a stage reads."""
    if isinstance(stage, SftStage):
        yield from stage.data.sources
        if stage.data.contamination:
            yield from stage.data.contamination.against
    if isinstance(stage, EvaluateStage):
        for task in stage.tasks:
            yield task.data
