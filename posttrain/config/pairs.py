"""How preference pairs are made of a model's own answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from posttrain.config.base import Config, ConfigPath, Located, ModelName, StageName
from posttrain.config.data import PromptDataConfig
from posttrain.config.model import ComputeConfig
from posttrain.config.train import RewardsConfig


def _read_names(value: Any) -> Any:
    """Take file names for the data: ``data=train.jsonl`` is short to type."""
    if isinstance(value, Located):
        names = [name for name in value.split(",") if name]
        return {"sources": [{"path": Located(name, value.base)} for name in names]}
    return value


class PairMaking(Config):
    """How a model's answers are written, graded and paired."""

    data: Annotated[PromptDataConfig, BeforeValidator(_read_names)]
    """Prompts with what their answers are graded against; one or several files by name, or all
    settings of data. What `split` sets aside is not used."""
    rewards: RewardsConfig = RewardsConfig()
    """What an answer is worth: as in `grpo`, by the evaluation's own grader."""
    completions: Annotated[int, Field(ge=2)] = 8
    """Answers per prompt."""
    at_most_per_prompt: PositiveInt = 1
    """Pairs per prompt: the best answer with the worst, the second best with the second worst, and
    so on, as long as one is worth more than the other. Of equal ones the first written comes
    first."""
    temperature: PositiveFloat = 1.0
    """Of the sampling."""
    max_new_tokens: PositiveInt = 256
    """Longest answer; an unfinished one is never the chosen one."""
    batch_size: PositiveInt = 64
    """Answers written side by side."""
    seed: NonNegativeInt = 0
    """Of the sampling."""


class PairsConfig(PairMaking):
    """Settings of the command `pairs`."""

    model: ModelName
    """A run, a stage, a model folder, a hub id, or a built-in name."""
    out: ConfigPath
    """File of the pairs (JSONL). A pass that was stopped is gone on with."""
    compute: ComputeConfig = ComputeConfig()
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""


class PairsStage(PairMaking):
    """Preference pairs of the model's own best and worst answers, for a later `dpo` stage."""

    stage: Literal["pairs"]
    name: StageName = "pairs"
    model_from: StageName | Literal["base"] | None = None
    """Stage whose model answers, or `base`; the latest one where absent."""
