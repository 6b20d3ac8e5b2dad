"""Tokens to add to a model's vocabulary, and where to learn them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from posttrain.config.base import Config, ConfigPath, Located, ModelName, StageName
from posttrain.config.data import Share, SourceConfig


def _read_names(value: Any) -> Any:
    """Take file names for sources: ``texts=a.txt,b.jsonl`` is short to type."""
    if isinstance(value, Located):
        return [{"path": Located(name, value.base)} for name in value.split(",") if name]
    if isinstance(value, list):
        return [{"path": item} if isinstance(item, str) else item for item in value]
    return value


def _read_name(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


Sources = Annotated[tuple[SourceConfig, ...], BeforeValidator(_read_names)]
Source = Annotated[SourceConfig, BeforeValidator(_read_name)]


class VocabularyConfig(Config):
    """Which tokens are added, and what proves that nothing else changed."""

    texts: Sources = ()
    """Text of the domain: `.txt`, or JSON, JSONL or CSV rows. New tokens are learned from it."""
    tokens_file: Source | None = None
    """Ready-made tokens, one a line, instead of learning; write a leading space where a word shall
    have one. The texts then only measure."""
    text_fields: Annotated[tuple[str, ...], Field(min_length=1)] = ("text", "content")
    """Fields of a row that hold the text, in order of preference."""
    documents: Literal["paragraph", "line", "file"] = "paragraph"
    """What one document of a `.txt` file is; paragraphs are parted by blank lines."""
    new_tokens: PositiveInt = 1000
    """Most tokens to learn."""
    min_frequency: Annotated[int, Field(ge=2)] = 10
    """Tokens that a learned one must save in the texts."""
    max_characters: PositiveInt = 16
    """Longest learned token."""
    held_out: Share = 0.05
    """Share of the documents that is only measured, chosen by content."""
    seed: NonNegativeInt = 0
    """Of that choice: another seed, another share."""
    control: Sources = ()
    """Text whose encoding shall change little; sample data of our own in English where absent."""
    row_multiple: PositiveInt = 64
    """The model gets a multiple of this many rows where it needs more: faster on a GPU."""

    @model_validator(mode="after")
    def _check_origin(self) -> VocabularyConfig:
        if not self.texts and self.tokens_file is None:
            raise ValueError("give `texts` to learn new tokens from, or a `tokens_file` of them")
        return self


class ExtendTokenizerConfig(VocabularyConfig):
    """Settings of the command."""

    model: ModelName
    """A run, a model folder, a hub id, or a built-in name."""
    tokenizer: ModelName | None = None
    """Where the tokenizer is, if not with the model."""
    out: ConfigPath | None = None
    """Folder to write; `models/NAME-extended` in the current folder where absent."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""


class ExtendTokenizerStage(VocabularyConfig):
    """Add tokens of the domain to the vocabulary; later stages use the new tokenizer."""

    stage: Literal["extend-tokenizer"]
    name: StageName = "extend-tokenizer"
    start_from: StageName | Literal["base"] | None = None
    """Earlier stage whose model to go on from, or `base`; the latest one where absent."""
