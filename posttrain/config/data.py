"""Where training rows come from and what becomes of them."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from posttrain.config.base import Config, ConfigPath, StageName

FormatName = Literal[
    "auto", "text",
    "messages", "messages_json", "dolci", "sharegpt", "kto", "xlam", "glaive", "toolace",
    "math", "gsm8k", "mcq", "multiple_choice",
    "alpaca", "dolly", "query_response", "question_answer", "input_output",
    "prompt_completion", "prompt_response", "prompt", "chatml",
    "preference", "sharegpt_preference", "alpaca_preference", "messages_preference",
    "v1_preference", "hh_rlhf", "stack_exchange", "first_turn_preference",
]  # fmt: skip
SampleKind = Literal["math", "chat", "mcq", "mcq-preference", "preference", "text", "tools"]
TrainOn = Literal["all_assistant", "last_assistant", "completion", "everything"]
Documents = Literal["paragraph", "line", "file"]
TurnName = Literal["role", "content", "system", "user", "assistant", "tool", "call"]
Share = Annotated[float, Field(ge=0, lt=1)]


class SourceConfig(Config):
    """Files of rows, or the output of an earlier `sample-data` stage."""

    path: ConfigPath | None = None
    """A file of rows (JSON, JSONL, CSV, TSV, Parquet, Arrow, plain text; text may be packed as
    `.gz` or `.zst`), a folder of such files, a pattern like `data/*.jsonl`, or a
    `dataset_info.json`."""
    dataset: str | None = None
    """Entry of the `dataset_info.json` that `path` is or has inside; several are parted by
    commas."""
    from_stage: StageName | None = None
    """Name of an earlier `sample-data` stage, instead of `path`."""
    format: FormatName = "auto"
    """Shape of the rows; `auto` looks at them and says what it found."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Own column names, as `{name the format expects: name in the file}`; an empty name leaves
    out what the format would look for."""
    turns: dict[TurnName, str] = Field(default_factory=dict)
    """Own names inside of conversations: of the keys `role` and `content`, and of the roles."""
    documents: Documents | None = None
    """What one document of its `.txt` files is; as the stage says where absent, and a line for
    files that a `dataset_info.json` names."""
    limit: PositiveInt | None = None
    """Use only the first rows of a file."""
    weight: PositiveFloat | None = None
    """Share of the examples of an epoch, relative to the other sources' weights."""
    epochs: PositiveFloat | None = None
    """Passes over this source in one epoch, instead of a weight; 0.5 takes every other example."""
    max_rows: PositiveInt | None = None
    """Most examples of this source in one epoch, another choice each time."""

    @model_validator(mode="after")
    def _check_one_origin(self) -> SourceConfig:
        if (self.path is None) == (self.from_stage is None):
            raise ValueError("give either `path` or `from_stage`")
        if self.dataset is not None and self.path is None:
            raise ValueError("`dataset` is an entry of a dataset_info.json: give that as `path`")
        if self.weight is not None and self.epochs is not None:
            raise ValueError("`weight` and `epochs` both say how often a source is seen; give one")
        return self


class TaskData(SourceConfig):
    """Problems of an evaluation, or solved examples, with their reference answers."""

    split: str | None = None
    """Of a folder: only its files of this name, such as `test.jsonl` and `test-00000.parquet` of
    `test`."""
    get: str | None = None
    """How to get the files; said where they are missing."""

    @model_validator(mode="before")
    @classmethod
    def _ask_for_path(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("path") and not values.get("from_stage"):
            told = f" ({values['get']})" if values.get("get") else ""
            raise ValueError(f"say where the rows are, by `path` or `from_stage`{told}")
        return values

    @model_validator(mode="after")
    def _refuse_shares(self) -> TaskData:
        for key in ("weight", "epochs", "max_rows"):
            if getattr(self, key) is not None:
                raise ValueError(f"`{key}` is of training data; `limit` takes the first rows")
        return self


class SplitConfig(Config):
    """Shares held back from training, chosen by content: adding rows moves no other row."""

    shorthands: ClassVar[tuple[dict[str, Any], ...]] = (
        {"type": "string"},
        {"type": "array", "items": {"type": "number"}},
    )

    validation: Share = 0.0
    """Share whose loss is watched during training."""
    test: Share = 0.0
    """Share written to `data/test.jsonl` and never trained on."""
    seed: NonNegativeInt = 0
    """Another seed, another choice."""
    group_by: str | None = None
    """Row field whose equal values stay in one split, such as the passage of several questions."""
    stratify_by: str | None = None
    """Row field of whose every value each split gets its share, such as `level`."""

    @classmethod
    def read_shorthand(cls, value: Any) -> dict[str, Any] | None:
        """Read `8:1:1` or `[8, 1, 1]`: train, validation and test."""
        if isinstance(value, str):
            value = value.split(":")
        elif isinstance(value, (int, float)):
            value = [value]
        if not isinstance(value, (list, tuple)):
            return None
        try:
            parts = [float(part) for part in value]
        except (TypeError, ValueError):
            parts = []
        if len(parts) != 3 or min(parts) < 0 or not 0 < parts[0] <= sum(parts) < math.inf:
            raise ValueError("a ratio has three numbers, train:validation:test, such as 8:1:1")
        total = sum(parts)
        return {"validation": parts[1] / total, "test": parts[2] / total}

    @model_validator(mode="after")
    def _check_rest(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test leave nothing to train on")
        return self


class ContaminationConfig(Config):
    """Search the training rows for problems of the evaluation sets."""

    shorthands: ClassVar[tuple[dict[str, Any], ...]] = ({"type": "string"},)

    against: tuple[SourceConfig, ...] = ()
    """The evaluation sets; all that the recipe's `evaluate` stages name where absent."""
    keys: tuple[str, ...] = ()
    """Row fields that identify a problem, compared besides the texts."""
    action: Literal["drop", "error", "report"] = "drop"
    """What becomes of a training row that is found in an evaluation set."""
    ngram: Annotated[int, Field(ge=3)] | None = 8
    """Words in a row that count as found; null compares whole problems only."""
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a problem's words that must be found."""

    @classmethod
    def read_shorthand(cls, value: Any) -> dict[str, Any] | None:
        """Read `contamination: drop`."""
        return {"action": value} if isinstance(value, str) else None


class DedupConfig(Config):
    """Drop rows that were there before."""

    method: Literal["exact", "near"] = "exact"
    """`exact`: the same words; `near`: most of the same words (MinHash)."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Of `near`: share of common word pairs from which two rows count as the same."""


class MixtureConfig(Config):
    """How several sources share an epoch."""

    temperature: PositiveFloat = 1.0
    """Evens out the sources' sizes where they have no weights: shares are n^(1/temperature)."""
    seed: NonNegativeInt = 0
    """Of the choice where a source is not seen whole."""


class DataConfig(Config):
    """What the data of every kind of training share."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """Files, read in order."""
    mixture: MixtureConfig | None = None
    """Shares of the sources, besides their own `weight`, `epochs` and `max_rows`."""
    validation_sources: tuple[SourceConfig, ...] = ()
    """Files of their own whose loss is watched during training, besides `split.validation`."""
    split: SplitConfig = SplitConfig()
    dedup: DedupConfig | None = None
    """Drop rows that were there before; none where absent."""
    contamination: ContaminationConfig | None = ContaminationConfig(action="report")
    """Search for evaluation problems among the training rows; `null` does not look."""
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Stop where a larger share of the rows is unusable."""
    workers: PositiveInt | Literal["auto"] = "auto"
    """Processes that encode; `auto` takes several only where the files are large."""

    @model_validator(mode="after")
    def _check_mixture(self) -> DataConfig:
        weighted = [s.weight is not None for s in self.sources if s.epochs is None]
        if any(weighted) and not all(weighted):
            raise ValueError("give every source without `epochs` a `weight`, or none")
        if any(weighted) and self.mixture and self.mixture.temperature != 1.0:
            raise ValueError("`weight` and `mixture.temperature` both set the shares; give one")
        return self


class ChatDataConfig(DataConfig):
    """Conversations whose assistant turns are learned."""

    max_tokens: PositiveInt = 2048
    """Longest example."""
    overlong: Literal["reject", "truncate", "split", "error"] = "reject"
    """What becomes of longer ones: into rejects.jsonl; shortened by whole exchanges from their
    end; made into several examples; or stop."""
    train_on: TrainOn = "all_assistant"
    """Which turns carry loss: every one of the assistant, its last one, those after the last user
    turn, or all there is."""


class PreferenceDataConfig(DataConfig):
    """Prompts with a better and a worse answer."""

    max_tokens: PositiveInt = 2048
    """Longest prompt with either of its answers."""
    overlong: Literal["reject", "truncate", "error"] = "reject"
    """What becomes of longer ones: into rejects.jsonl; the oldest exchanges left out; or stop."""


class PromptDataConfig(DataConfig):
    """Prompts that the model answers in training, with what their answers are graded against."""

    max_tokens: PositiveInt = 1024
    """Longest prompt."""
    overlong: Literal["reject", "truncate", "error"] = "reject"
    """What becomes of longer ones: into rejects.jsonl; the oldest exchanges left out; or stop."""


class TextDataConfig(DataConfig):
    """Plain text."""

    text_fields: Annotated[tuple[str, ...], Field(min_length=1)] = ("text", "content")
    """Fields of a row that hold the text, in order of preference; the turns of a conversation are
    joined where all are absent."""
    documents: Documents = "paragraph"
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
