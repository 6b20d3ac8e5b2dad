"""One source of rows -> its files, their format, and records and rejects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from posttrain.config.data import SourceConfig, TextDataConfig, TurnName
from posttrain.data.expansion import check_source, expand_source
from posttrain.data.formats import FORMATS, choose_format
from posttrain.data.formats.row_weight import FIELD, convert_weighed
from posttrain.data.formats.text import TEXT_FIELDS, convert_text
from posttrain.data.readers import (
    TEXT_ENDINGS,
    RowBatch,
    describe_broken,
    find_ending,
    scan_batches,
    scan_texts,
)
from posttrain.data.records import Content, Origin, Record, Reject, Row, RowError
from posttrain.data.renaming import check_columns, rename_row

__all__ = [
    "SourceRows", "build_converter", "check_source", "choose_source_format", "choose_text_format",
    "expand_source", "find_text_fields", "is_text_file", "open_rows", "read_source", "read_texts",
    "scan_source",
]  # fmt: skip

DETECTION_ROWS = 50
_MOST_LOOKED_AT = 5000


@dataclass
class SourceRows:
    """What one source gave."""

    records: list[Record[Any]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def is_text_file(source: SourceConfig) -> bool:
    """Whether a source is plain text rather than rows."""
    return source.path is not None and find_ending(source.path) in TEXT_ENDINGS


def scan_source(
    source: SourceConfig, *, documents: str = "paragraph", rows_per_batch: int = 256
) -> Iterator[RowBatch]:
    """Read one file of a source in pieces, up to its limit, columns not yet renamed.

    Args:
        source: As ``expand_source`` returns it.
        documents: What one document of plain text is where the source does not say.
        rows_per_batch: Most rows of a piece.

    Raises:
        DataError: The file cannot be used at all.
    """
    assert source.path is not None
    size, limit = rows_per_batch, source.limit
    if is_text_file(source):
        documents = source.documents or documents
        return scan_texts(source.path, documents, rows_per_batch=size, limit=limit)
    return scan_batches(source.path, rows_per_batch=size, limit=limit)


def choose_source_format(source: SourceConfig, kind: str) -> tuple[str, str]:
    """Settle the format of one file's rows.

    Args:
        source: As ``expand_source`` returns it.
        kind: What the rows shall become: ``chat`` or ``preference``.

    Returns:
        The format's name, and why.

    Raises:
        DataError: No format fits, a column is nowhere to be seen, or no row can be read.
    """
    place = str(source.path)
    first, broken = _read_first(source)
    if not first:
        if source.format != "auto":
            return choose_format(source.format, [], place, kind)
        raise describe_broken(*broken[0])
    check_columns(source.columns, first)
    names = list(source.columns)  # here none has to be in every row
    rows = [rename_row(row, source.columns, source.turns, names) for _, row in first]
    return choose_format(source.format, rows, place, kind)


def build_converter(
    source: SourceConfig, name: str, text_fields: Sequence[str] = TEXT_FIELDS
) -> Callable[[Row], Content]:
    """Make the function from a row of a source to its content.

    Args:
        source: With its own names of columns and turns.
        name: A format, or ``text``.
        text_fields: Of ``text``: fields that may hold it, in order of preference.

    Returns:
        Raises RowError where a row cannot be used, as where it lacks a column. What the format
        only knows as optional may be missing.
    """
    convert: Callable[[Row], Content]
    optional: Collection[str] = ()
    if name == "text":
        convert = partial(convert_text, text_fields=tuple(text_fields))
    else:
        convert = partial(convert_weighed, FORMATS[name].convert)
        optional = (*FORMATS[name].optional, FIELD)
    if not source.columns and not source.turns:
        return convert
    return partial(_convert_renamed, convert, source.columns, source.turns, frozenset(optional))


def read_source(source: SourceConfig, kind: str = "chat") -> SourceRows:
    """Read and convert one source of conversations or pairs.

    Args:
        source: With its ``path`` settled.
        kind: What its rows shall become: ``chat`` or ``preference``.

    Returns:
        Records, rejects (rows that cannot be read among them), and a report with format, evidence
        and number of rows.

    Raises:
        DataError: A file cannot be used at all.
    """
    parts = []
    for file in expand_source(source):
        found = choose_source_format(file, kind)
        parts.append(_convert_rows(file, build_converter(file, found[0]), found))
    return _join(source, parts)


def read_texts(source: SourceConfig, config: TextDataConfig) -> SourceRows:
    """Read one source of plain text: text files, or rows with a text field.

    Args:
        source: With its ``path`` settled.
        config: Which fields hold the text, and what a document of a text file is.

    Returns:
        As ``read_source``.

    Raises:
        DataError: A file cannot be used at all.
    """
    parts = []
    for file in expand_source(source):
        found = choose_text_format(file, config)
        convert = build_converter(file, "text", find_text_fields(file, config))
        parts.append(_convert_rows(file, convert, found, config.documents))
    return _join(source, parts)


def choose_text_format(source: SourceConfig, config: TextDataConfig) -> tuple[str, str]:
    """Say what the documents of one file are; as ``choose_source_format``."""
    if is_text_file(source):
        return "text", f"one document a {source.documents or config.documents}"
    if source.columns:
        check_columns(source.columns, _read_first(source)[0])
    fields = ", ".join(config.text_fields)
    return "text", f"the first of {fields}, and else the turns of a conversation"


def find_text_fields(source: SourceConfig, config: TextDataConfig) -> tuple[str, ...]:
    """Fields that may hold the text of one file's rows; a document of a text file has its own."""
    return ("text",) if is_text_file(source) else config.text_fields


def open_rows(source: SourceConfig) -> Iterator[tuple[Origin, Row]]:
    """Read a source's rows with its columns renamed, for those who leave nothing out.

    Raises:
        DataError: A file cannot be used at all, or at the first broken row, with file:line.
    """
    for file in expand_source(source):
        for origin, row in _scan_rows(file):
            if isinstance(row, RowError):
                raise describe_broken(origin, row)
            try:
                yield origin, rename_row(row, file.columns, file.turns)
            except RowError:
                check_columns(file.columns, [(origin, row)])
                raise AssertionError("a missing column is told by the check") from None


def _convert_renamed(
    convert: Callable[[Row], Content],
    columns: Mapping[str, str],
    turns: Mapping[TurnName, str],
    optional: Collection[str],
    row: Row,
) -> Content:
    return convert(rename_row(row, columns, turns, optional))


def _scan_rows(
    source: SourceConfig, documents: str = "paragraph"
) -> Iterator[tuple[Origin, Row | RowError]]:
    for batch in scan_source(source, documents=documents):
        yield from batch.rows()


def _read_first(
    source: SourceConfig,
) -> tuple[list[tuple[Origin, Row]], list[tuple[Origin, RowError]]]:
    """Read some rows to look at; where all are broken at first, look further."""
    rows: list[tuple[Origin, Row]] = []
    broken: list[tuple[Origin, RowError]] = []
    for origin, row in islice(_scan_rows(source), _MOST_LOOKED_AT):
        if isinstance(row, RowError):
            broken.append((origin, row))
        else:
            rows.append((origin, row))
        if rows and len(rows) + len(broken) >= DETECTION_ROWS:
            break
    return rows, broken


def _convert_rows(
    source: SourceConfig,
    convert: Callable[[Row], Content],
    found: tuple[str, str],
    documents: str = "paragraph",
) -> SourceRows:
    result = SourceRows()
    for origin, row in _scan_rows(source, documents):
        try:
            if isinstance(row, RowError):
                raise row
            result.records.append(Record(convert(row), origin))
        except RowError as error:
            kept = getattr(row, "row", None) if isinstance(row, RowError) else row
            result.rejects.append(Reject(origin, error.reason, error.detail, kept))
    result.report = {
        "path": str(source.path),
        "format": found[0],
        "evidence": found[1],
        "rows": len(result.records) + len(result.rejects),
    }
    return result


def _join(source: SourceConfig, parts: Sequence[SourceRows]) -> SourceRows:
    if len(parts) == 1:
        return parts[0]
    reports = [part.report for part in parts]
    return SourceRows(
        [record for part in parts for record in part.records],
        [reject for part in parts for reject in part.rejects],
        {
            "path": str(source.path),
            "format": ", ".join(dict.fromkeys(report["format"] for report in reports)),
            "evidence": f"{len(parts)} files; {reports[0]['evidence']}",
            "rows": sum(report["rows"] for report in reports),
        },
    )
