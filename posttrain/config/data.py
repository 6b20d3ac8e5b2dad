"""Where training rows come from and what becomes of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from posttrain.config.base import Config, ConfigPath, StageName

FormatName = Literal["auto", "gsm8k", "alpaca", "messages"]
SampleKind = Literal["math", "chat", "mcq", "tools", "preference"]
Share = Annotated[float, Field(ge=0, lt=1)]


class SourceConfig(Config):
    """One file of rows, or the output of an earlier `sample-data` stage."""

    path: ConfigPath | None = None
    """JSON, JSONL or CSV file."""
    from_stage: StageName | None = None
    """Name of an earlier `sample-data` stage, instead of `path`."""
    format: FormatName = "auto"
    """Shape of the rows; `auto` looks at them and says what it found."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Own column names, as `{name the format expects: name in the file}`."""
    limit: PositiveInt | None = None
    """Use only the first rows."""

    @model_validator(mode="after")
    def _check_one_origin(self) -> SourceConfig:
        if (self.path is None) == (self.from_stage is None):
            raise ValueError("give either `path` or `from_stage`")
        return self


class SplitConfig(Config):
    """Shares held back from training, chosen by content: adding rows moves no other row."""

    validation: Share = 0.0
    """Share whose loss is watched during training."""
    test: Share = 0.0
    """Share written to `data/test.jsonl` and never trained on."""
    seed: NonNegativeInt = 0
    """Another seed, another choice."""

    @model_validator(mode="after")
    def _check_rest(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test leave nothing to train on")
        return self


class ContaminationConfig(Config):
    """Search the training rows for problems of the evaluation sets."""

    against: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """The evaluation sets."""
    keys: tuple[str, ...] = ()
    """Row fields that identify a problem, compared besides the prompt's normalized text."""
    action: Literal["drop", "error", "report"] = "drop"
    """What becomes of a training row that is found in an evaluation set."""


class DataConfig(Config):
    """From rows to trained tokens."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """Files, read in order."""
    split: SplitConfig = SplitConfig()
    contamination: ContaminationConfig | None = None
    max_tokens: PositiveInt = 2048
    """Longest example."""
    overlong: Literal["reject", "error"] = "reject"
    """What becomes of longer ones: into rejects.jsonl, or stop."""
    train_on: Literal["all_assistant", "last_assistant"] = "all_assistant"
    """Which turns carry loss."""
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Stop where a larger share of the rows is unusable."""


class SampleDataStage(Config):
    """Make sample data of our own, deterministically."""

    stage: Literal["sample-data"]
    name: StageName = "sample-data"
    kind: SampleKind
    """What to make."""
    num: PositiveInt
    """Rows."""
    seed: NonNegativeInt = 0
    out: ConfigPath | None = None
    """File to write; the stage's folder where absent."""
