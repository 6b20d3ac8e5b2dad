"""The evaluation sets against which training rows are searched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from posttrain.config.data import ContaminationConfig, SourceConfig, TextDataConfig
from posttrain.data.contamination import ContaminationIndex
from posttrain.data.formats import FORMATS
from posttrain.data.records import Record, Text
from posttrain.data.sources import open_rows, read_source, read_texts
from posttrain.errors import DataError

_TEXT_FILES = (".txt", ".md")
_LOOKED_AT = 50


@dataclass(frozen=True)
class Evaluations:
    """What training rows are searched for."""

    index: ContaminationIndex | None = None
    """None where nothing is looked for."""
    problems: int = 0
    unread: int = 0
    """Rows of the evaluation sets that could not be read."""
    files: list[str] = field(default_factory=list)


def build_index(config: ContaminationConfig | None) -> Evaluations:
    """Read the evaluation sets.

    Raises:
        DataError: A set cannot be read at all, so that nothing would be compared.
    """
    if config is None or not config.against:
        return Evaluations()
    problems: list[Record[Any]] = []
    unread = 0
    for source in config.against:
        records, rejects = _read(source)
        if not records:
            first = rejects[0]
            raise DataError(
                f"{first.origin}: {first.reason}; no row of this evaluation set can be read, "
                "so nothing would be compared",
                hint="set the `format` or `columns` of contamination.against, or contamination: "
                "null",
            )
        problems += records
        unread += len(rejects)
    index = ContaminationIndex(problems, config.keys, ngram=config.ngram, coverage=config.coverage)
    files = [str(source.path) for source in config.against]
    return Evaluations(index, len(problems), unread, files)


def _read(source: SourceConfig) -> tuple[list[Any], list[Any]]:
    assert source.path is not None
    if source.path.suffix.lower() in _TEXT_FILES:
        found = read_texts(source, TextDataConfig(sources=(source,)))
        return found.records, found.rejects
    rows = list(open_rows(source))
    first = [row for _, row in rows[:_LOOKED_AT]]
    known = any(f.kind == "chat" and f.fits_all(first) for f in FORMATS.values())
    if known or source.format != "auto":
        found = read_source(source)
        return found.records, found.rejects
    # Problems of a shape that nobody could train on are compared by all their texts.
    return [Record(Text("\n".join(_texts(row))), origin) for origin, row in rows], []


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
