"""One source of rows -> records and rejects, its format found or as the recipe says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any

from posttrain.config.data import SourceConfig, TextDataConfig
from posttrain.data.formats import FORMATS, choose_format
from posttrain.data.formats.text import convert_text
from posttrain.data.readers import read_documents, read_rows
from posttrain.data.records import Content, Record, Reject, Row, RowError
from posttrain.errors import DataError

_DETECTION_ROWS = 50
_TEXT_FILES = (".txt", ".md")


@dataclass
class SourceRows:
    """What one source gave."""

    records: list[Record[Any]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def read_source(source: SourceConfig, kind: str = "chat") -> SourceRows:
    """Read and convert one source of conversations or pairs.

    Args:
        source: With its ``path`` settled.
        kind: What its rows shall become: ``chat`` or ``preference``.

    Returns:
        Records, rejects, and a report with format, evidence and number of rows.

    Raises:
        DataError: The file cannot be used at all.
    """
    rows = open_rows(source)
    first = list(islice(rows, _DETECTION_ROWS))
    found = choose_format(source.format, [row for _, row in first], str(source.path), kind)
    return _convert_rows(source, chain(first, rows), FORMATS[found[0]].convert, found)


def read_texts(source: SourceConfig, config: TextDataConfig) -> SourceRows:
    """Read one source of plain text: a text file, or rows with a text field.

    Args:
        source: With its ``path`` settled.
        config: Which fields hold the text, and what a document of a text file is.

    Returns:
        As ``read_source``.

    Raises:
        DataError: The file cannot be used at all.
    """
    assert source.path is not None
    if source.path.suffix.lower() in _TEXT_FILES:
        rows: Iterator[tuple[Any, Row]] = read_documents(source.path, config.documents)
        rows = islice(rows, source.limit) if source.limit else rows
        found = ("text", f"one document a {config.documents}")
        return _convert_rows(source, rows, convert_text, found)
    found = ("text", f"the first of {', '.join(config.text_fields)}")
    return _convert_rows(
        source, open_rows(source), partial(convert_text, text_fields=config.text_fields), found
    )


def open_rows(source: SourceConfig) -> Iterator[tuple[Any, Row]]:
    """Read a source's rows with its columns renamed, up to its limit."""
    assert source.path is not None
    rows = _rename(read_rows(source.path), source.columns)
    return islice(rows, source.limit) if source.limit else rows


def _convert_rows(
    source: SourceConfig,
    rows: Iterable[tuple[Any, Row]],
    convert: Callable[[Row], Content],
    found: tuple[str, str],
) -> SourceRows:
    result = SourceRows()
    for origin, row in rows:
        try:
            result.records.append(Record(convert(row), origin))
        except RowError as error:
            result.rejects.append(Reject(origin, error.reason, error.detail, row))
    result.report = {
        "path": str(source.path),
        "format": found[0],
        "evidence": found[1],
        "rows": len(result.records) + len(result.rejects),
    }
    return result


def _rename(rows: Iterator[tuple[Any, Row]], columns: dict[str, str]) -> Iterator[tuple[Any, Row]]:
    """Give columns the names that the format expects."""
    for origin, row in rows:
        renamed = dict(row)
        for expected, actual in columns.items():
            if actual not in row:
                raise DataError(
                    f"{origin}: no column `{actual}`",
                    hint=f"`columns` maps `{expected}` to it; the row has: {', '.join(row)}",
                )
            renamed.pop(actual, None)
        renamed.update({expected: row[actual] for expected, actual in columns.items()})
        yield origin, renamed
