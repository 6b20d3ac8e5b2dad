"""The texts: those to learn from, those only measured, and the control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.config.data import SourceConfig, TextDataConfig
from posttrain.config.vocabulary import VocabularyConfig
from posttrain.data.records import describe_reject
from posttrain.data.sources import read_texts
from posttrain.data.split import choose_split
from posttrain.errors import ConfigError, DataError
from posttrain.samples import GENERATORS

_CONTROL_ROWS = 100
_MOST_REJECTED = 0.1


@dataclass(frozen=True)
class Texts:
    """Documents of the three kinds."""

    learned: list[str]
    held_out: list[str]
    control: list[str]
    rejects: list[dict[str, Any]] = field(default_factory=list)
    """Rows without usable text, as in ``rejects.jsonl``."""

    @property
    def measured(self) -> list[str]:
        """The documents to measure on: held-out ones, or all where there are none."""
        return self.held_out or self.learned


def read_domain(config: VocabularyConfig) -> Texts:
    """Read and split the texts.

    Raises:
        DataError: A file cannot be read, holds no text, or many of its rows hold none.
        ConfigError: A source names a stage, and there is no recipe.
    """
    documents, rejects = _read(config.texts, config)
    parts: dict[str, list[str]] = {"train": [], "validation": []}
    for text in documents:
        part = choose_split(text, validation=config.held_out, test=0.0, seed=config.seed)
        parts[part].append(text)
    if documents and not parts["train"]:
        parts = {"train": documents, "validation": []}
    if config.control:
        control, more = _read(config.control, config)
        rejects += more
    else:
        control = [
            value
            for kind in ("math", "mcq")
            for row in GENERATORS[kind](_CONTROL_ROWS, 0)
            for value in row.values()
            if isinstance(value, str) and value.isascii()  # some of the samples are Chinese
        ]
    return Texts(parts["train"], parts["validation"], control, rejects)


def settled_path(source: SourceConfig) -> Path:
    """Return a source's file.

    Raises:
        ConfigError: It names a stage, and there is no recipe that has run it.
    """
    if source.path is None:
        raise ConfigError(
            f"`from_stage: {source.from_stage}` needs a recipe", hint="give the file's path"
        )
    return source.path


def _read(
    sources: Sequence[SourceConfig], config: VocabularyConfig
) -> tuple[list[str], list[dict[str, Any]]]:
    documents: list[str] = []
    rejects: list[dict[str, Any]] = []
    for source in sources:
        source = source.model_copy(update={"path": settled_path(source)})
        settings = TextDataConfig(
            sources=(source,), text_fields=config.text_fields, documents=config.documents
        )
        found = read_texts(source, settings)
        read = len(found.records) + len(found.rejects)
        if len(found.rejects) > _MOST_REJECTED * read:
            first = found.rejects[0]
            raise DataError(
                f"{first.origin}: {len(found.rejects):,} of {read:,} rows cannot be used: "
                f"{describe_reject(first.reason, first.detail)}",
                hint="name the field that holds the text with text_fields='[NAME]'",
            )
        documents += [record.content.text for record in found.records]
        rejects += [reject.to_json() for reject in found.rejects]
    return documents, rejects
