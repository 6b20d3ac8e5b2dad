"""Where training rows come from and what becomes of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from posttrain.config.base import Config, ConfigPath, StageName

FormatName = Literal[
    "auto", "text",
    "messages", "messages_json", "dolci", "sharegpt", "kto", "xlam", "math", "gsm8k", "mcq",
    "alpaca", "dolly", "query_response", "question_answer", "input_output",
    "prompt_completion", "prompt", "chatml",
    "preference", "sharegpt_preference", "alpaca_preference", "messages_preference",
    "v1_preference", "stack_exchange", "first_turn_preference",
]  # fmt: skip
SampleKind = Literal["math", "chat", "mcq", "mcq-preference", "preference", "text", "tools"]
Share = Annotated[float, Field(ge=0, lt=1)]


class SourceConfig(Config):
    """One file of rows, or the output of an earlier `sample-data` stage."""

    path: ConfigPath | None = None
    """JSON, JSONL, CSV, TSV or Parquet file; text may be gzipped."""
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


class DedupConfig(Config):
    """Drop rows that were there before."""

    method: Literal["exact", "near"] = "exact"
    """`exact`: the same words; `near`: most of the same words (MinHash)."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Of `near`: share of common word pairs from which two rows count as the same."""


class DataConfig(Config):
    """What the data of every kind of training share."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """Files, read in order."""
    validation_sources: tuple[SourceConfig, ...] = ()
    """Files of their own whose loss is watched during training, besides `split.validation`."""
    split: SplitConfig = SplitConfig()
    dedup: DedupConfig | None = None
    """Drop rows that were there before; none where absent."""
    contamination: ContaminationConfig | None = None
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Stop where a larger share of the rows is unusable."""


class ChatDataConfig(DataConfig):
    """Conversations whose assistant turns are learned."""

    max_tokens: PositiveInt = 2048
    """Longest example."""
    overlong: Literal["reject", "error"] = "reject"
    """What becomes of longer ones: into rejects.jsonl, or stop."""
    train_on: Literal["all_assistant", "last_assistant"] = "all_assistant"
    """Which turns carry loss."""


class PreferenceDataConfig(DataConfig):
    """Prompts with a better and a worse answer."""

    max_tokens: PositiveInt = 2048
    """Longest prompt with either of its answers."""
    overlong: Literal["reject", "error"] = "reject"
    """What becomes of longer ones: into rejects.jsonl, or stop."""


class PromptDataConfig(DataConfig):
    """Prompts that the model answers in training, with what their answers are graded against."""

    max_tokens: PositiveInt = 1024
    """Longest prompt."""
    overlong: Literal["reject", "error"] = "reject"
    """What becomes of longer ones: into rejects.jsonl, or stop."""


class TextDataConfig(DataConfig):
    """Plain text."""

    text_fields: Annotated[tuple[str, ...], Field(min_length=1)] = ("text", "content")
    """Fields of a row that hold the text, in order of preference; messages are joined where all
    are absent."""
    documents: Literal["paragraph", "line", "file"] = "paragraph"
    """What one document of a `.txt` file is; paragraphs are parted by blank lines."""
    block_tokens: PositiveInt = 1024
    """Longest example."""
    join: bool = True
    """Lay documents end to end, parted by end tokens, and cut blocks; else a document stays by
    itself and only long ones are cut."""


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
