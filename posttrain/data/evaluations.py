"""The evaluation sets against which training rows are searched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from posttrain.config.data import ContaminationConfig, SourceConfig, TextDataConfig
from posttrain.data.contamination import ContaminationIndex
from posttrain.data.formats import FORMATS
from posttrain.data.readers import describe_broken
from posttrain.data.records import Origin, Record, Reject, Row, RowError, Text
from posttrain.data.renaming import rename_row
from posttrain.data.sources import (
    expand_source,
    is_text_file,
    read_source,
    read_texts,
    scan_source,
)
from posttrain.errors import DataError

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
        DataError: A set cannot be read at all, so that nothing would be compared; or a row of it is
            broken, and what is found shall be dropped or stop the run.
    """
    if config is None or not config.against:
        return Evaluations()
    problems: list[Record[Any]] = []
    unread = 0
    for source in config.against:
        read = [_read(file, config.action) for file in expand_source(source)]
        records = [record for found, _ in read for record in found]
        rejects = [reject for _, refused in read for reject in refused]
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


def _read(file: SourceConfig, action: str) -> tuple[list[Record[Any]], list[Reject]]:
    if is_text_file(file):
        found = read_texts(file, TextDataConfig(sources=(file,)))
        return found.records, found.rejects
    rows, rejects = _read_rows(file, action)
    first = [row for _, row in rows[:_LOOKED_AT]]
    known = any(f.kind == "chat" and f.fits_all(first) for f in FORMATS.values())
    records: list[Record[Any]] = []
    if known or file.format != "auto":
        found = read_source(file)
        records, rejects = found.records, found.rejects
    else:
        rejects += [Reject(origin, "no text", "", row) for origin, row in rows]
    unread: list[Reject] = []
    for reject in rejects:  # problems that nobody could train on are compared by all their texts
        text = "\n".join(_texts(reject.row)) if isinstance(reject.row, dict) else ""
        if text.strip():
            records.append(Record(Text(text), reject.origin))
        else:
            unread.append(reject)
    return records, unread


def _read_rows(file: SourceConfig, action: str) -> tuple[list[tuple[Origin, Row]], list[Reject]]:
    """Read the rows of a file, columns renamed, and those that cannot be read.

    A search that only reports goes on without a broken row; one that is relied on does not.
    """
    rows: list[tuple[Origin, Row]] = []
    rejects: list[Reject] = []
    for batch in scan_source(file):
        for origin, row in batch.rows():
            if isinstance(row, RowError) and action != "report":
                raise describe_broken(origin, row)
            try:
                if isinstance(row, RowError):
                    raise row
                rows.append((origin, rename_row(row, file.columns, file.turns)))
            except RowError as error:
                rejects.append(Reject(origin, error.reason, error.detail))
    return rows, rejects


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
