"""How multiple-choice items are generated in a batch, and how they are judged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from posttrain.config.base import Config, ConfigPath, Located, ModelName, StageName
from posttrain.config.data import SourceConfig
from posttrain.config.model import ComputeConfig

# The judge's own limit.
_MOST_AT_ONCE = 10


def _read_name(value: Any) -> Any:
    """Take a file name for a source: ``requests=wishes.jsonl`` is short to type."""
    return {"path": value} if isinstance(value, Located) else value


class ItemWriting(Config):
    """How multiple-choice items are written."""

    requests: Annotated[SourceConfig, BeforeValidator(_read_name)]
    """What the items shall be about: rows of requests (`grade`, `subject`, `difficulty`, `skills`,
    `instructions`, ...), or `mcq` sample rows."""
    constrained: bool = True
    """Allow only tokens that make a valid item; `false` lets the model write what it will, so that
    the rules can tell whether it has learned the format."""
    per_request: PositiveInt = 1
    """Items per request."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.7
    """0 always takes the most likely token; higher is more varied."""
    seed: NonNegativeInt = 0
    """Of the sampling; every item has a seed of its own made from it, so that order and stops do
    not matter."""
    question_tokens: PositiveInt = 160
    """Longest question; of constrained writing, as the next two."""
    option_tokens: PositiveInt = 48
    """Longest option."""
    explanation_tokens: PositiveInt = 192
    """Longest explanation."""
    max_new_tokens: PositiveInt = 768
    """Longest text of unconstrained writing."""
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Stop where a larger share of the requests cannot be put to the model."""


class GenerateItemsConfig(ItemWriting):
    """Settings of the command `generate-items`."""

    model: ModelName
    """A run, a model folder, a hub id, or a built-in name."""
    out: ConfigPath
    """File of the items (JSONL), written to as they come; a file that was begun is gone on with."""
    compute: ComputeConfig = ComputeConfig()
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""


class GenerateItemsStage(ItemWriting):
    """Let a model write multiple-choice items; a later `items` task judges them."""

    stage: Literal["generate-items"]
    name: StageName = "generate-items"
    model_from: StageName | Literal["base"] | None = None
    """Stage whose model writes, or `base`; the latest one where absent."""


class InceptBenchConfig(Config):
    """How the InceptBench judge is asked; its key and address come from the environment only."""

    concurrency: Annotated[int, Field(ge=1, le=_MOST_AT_ONCE)] = 4
    """Items asked about at the same time."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest wait for one item's answer."""
    tries: PositiveInt = 5
    """Attempts per item, where the judge is busy, fails or does not answer in time."""
    retry_seconds: Annotated[float, Field(gt=0)] = 2.0
    """Pause before the second attempt; it doubles from one to the next, up to a minute."""
    repeats: PositiveInt = 1
    """How often each item is judged: the judge is noisy, and repeats show how much."""
    max_failure_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Larger shares of items without a score end in an error, after all results are written."""


class ItemChecks(Config):
    """How items are judged: by offline rules always, by InceptBench where there is a key."""

    options: Annotated[int, Field(ge=2, le=26)] = 4
    """Options per item."""
    grade: Annotated[int, Field(ge=0, le=12)] | None = None
    """School grade of items that come without one; 0 is kindergarten."""
    duplicate_similarity: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Two items are near copies from this share of common word triples on."""
    inceptbench: InceptBenchConfig | None = InceptBenchConfig()
    """How the judge is asked where its key is set; `null` never asks it."""
