"""Files -> rows, each tagged with its file and line; what cannot be read is told row by row.

``scan_batches`` reads a file in pieces that another process can turn into rows; nothing grows with
the file's length but for JSON that is one object around all rows. A broken row is a ``RowError``
among the others, with a countable reason; an error is raised only where a file cannot be used at
all. ``read_rows`` is for those who leave nothing out, and stops at the first broken row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from posttrain.data.readers.arrays import JsonText, scan_array, scan_objects
from posttrain.data.readers.batches import Item, RowBatch, collect, pick_rows
from posttrain.data.readers.blocks import (
    check_file,
    find_ending,
    number_lines,
    open_file,
    read_blocks,
    refuse_foreign,
)
from posttrain.data.readers.columns import scan_columns
from posttrain.data.readers.objects import find_layout, scan_document
from posttrain.data.readers.parse import BrokenRowError
from posttrain.data.readers.tables import scan_table
from posttrain.data.readers.texts import read_whole, scan_documents
from posttrain.data.records import Origin, Row, RowError
from posttrain.errors import DataError

__all__ = [
    "ROW_ENDINGS", "TEXT_ENDINGS", "BrokenRowError", "RowBatch", "check_file", "find_ending",
    "pick_rows", "read_documents", "read_rows", "scan_batches", "scan_rows", "scan_texts",
]  # fmt: skip

TEXT_ENDINGS = (".txt", ".md")
_TABLES = (".csv", ".tsv")
_COLUMNS = (".parquet", ".arrow", ".feather")
ROW_ENDINGS = (".jsonl", ".ndjson", ".json", *_TABLES, *_COLUMNS)
_BROKEN_HINT = "mend or remove this line, then run again"


def scan_batches(
    path: Path, *, rows_per_batch: int = 256, limit: int | None = None
) -> Iterator[RowBatch]:
    """Read a file of rows in pieces.

    Args:
        path: The file, perhaps packed as ``.gz`` or ``.zst``. Parquet and Arrow are known by their
            first bytes, ``.csv`` and ``.tsv`` by their name; a file that starts with ``[`` is a
            JSON array; one that starts with ``{`` has an object a line, objects that run over
            several lines, or one object around all rows; anything else is taken for lines.
        rows_per_batch: Most rows of a piece.
        limit: Read only so many rows, broken ones among them.

    Raises:
        DataError: The file is missing, may not be read, is no text, or has no row at all.
        MissingExtraError: It needs a package that is not installed.
    """
    yield from _check_some(path, _scan(path, rows_per_batch), "no rows", limit)


def scan_rows(path: Path, *, limit: int | None = None) -> Iterator[tuple[Origin, Row | RowError]]:
    """Read a file row by row; a broken row is the error that says why.

    Raises:
        DataError: As ``scan_batches``.
    """
    for batch in scan_batches(path, limit=limit):
        yield from batch.rows()


def read_rows(path: Path) -> Iterator[tuple[Origin, Row]]:
    """Read a file row by row, for those who leave nothing out.

    Yields:
        Origin and row; every row is a mapping.

    Raises:
        DataError: As ``scan_batches``, or at the first broken row; with file:line.
        MissingExtraError: It needs a package that is not installed.
    """
    return _read_strictly(scan_rows(path))


def scan_texts(
    path: Path, unit: str, *, rows_per_batch: int = 256, limit: int | None = None
) -> Iterator[RowBatch]:
    """Read a text file as documents, in pieces of rows ``{"text": ...}``.

    Args:
        path: The file, perhaps packed.
        unit: ``file``, ``line`` or ``paragraph`` (parted by blank lines); blank lines between
            documents belong to none.
        rows_per_batch: Most documents of a piece.
        limit: Read only so many.

    Raises:
        DataError: The file is missing, may not be read, is no text, or empty.
    """
    blocks = read_blocks(path)
    documents = read_whole(blocks) if unit == "file" else scan_documents(number_lines(blocks), unit)
    yield from _check_some(path, collect(path, documents, rows_per_batch), "no text", limit)


def read_documents(path: Path, unit: str) -> Iterator[tuple[Origin, Row]]:
    """Read a text file as documents, for those who leave nothing out.

    Args:
        path: The file.
        unit: As for ``scan_texts``.

    Yields:
        Origin and ``{"text": ...}``.

    Raises:
        DataError: As ``scan_texts``, or at the first document that cannot be read.
    """
    return _read_strictly(row for batch in scan_texts(path, unit) for row in batch.rows())


def describe_broken(origin: Origin, row: RowError) -> DataError:
    """Make of a broken row the error of those who leave nothing out."""
    detail = f" ({row.detail})" if row.detail else ""
    return DataError(f"{origin}: {row.reason}{detail}", hint=_BROKEN_HINT)


def _read_strictly(
    rows: Iterable[tuple[Origin, Row | RowError]],
) -> Iterator[tuple[Origin, Row]]:
    for origin, row in rows:
        if isinstance(row, RowError):
            raise describe_broken(origin, row)
        yield origin, row


def _check_some(
    path: Path, batches: Iterable[RowBatch], problem: str, limit: int | None
) -> Iterator[RowBatch]:
    left = limit
    empty = True
    for batch in batches:
        empty = False
        if left is not None and len(batch) >= left:
            yield batch.head(left)
            return
        left = None if left is None else left - len(batch)
        yield batch
    if empty:
        raise DataError(f"{path}: {problem}", hint="check that this is the file you meant")


def _scan(path: Path, rows_per_batch: int) -> Iterator[RowBatch]:
    ending = _find_kind(path)
    if ending in TEXT_ENDINGS:
        raise DataError(
            f"{path}: plain text holds no rows",
            hint="it is for `pretrain` and `mlm` stages, and for extend-tokenizer",
        )
    if ending in _COLUMNS:
        return scan_columns(path, ending, rows_per_batch)
    if ending in _TABLES:
        table = scan_table(path, number_lines(read_blocks(path)), ending)
        return collect(path, table, rows_per_batch)
    return collect(path, _scan_json(path, ending), rows_per_batch)


def _find_kind(path: Path) -> str:
    with open_file(path) as file:
        try:
            mark = file.read(64)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    refuse_foreign(path, mark)
    ending = find_ending(path)
    if mark[:4] == b"FEA1":
        raise DataError(f"{path}: Feather of version 1", hint="write it again with version 2")
    if ending in _COLUMNS and ending != path.suffix.lower():
        raise DataError(f"{path}: {ending} files are packed inside", hint=f"unpack it to {ending}")
    return {b"PAR1": ".parquet", b"ARRO": ".arrow"}.get(mark[:4], ending)


def _scan_json(path: Path, ending: str) -> Iterable[tuple[int, Item]]:
    text = JsonText(read_blocks(path))
    start = text.peek()
    if start == "[":
        text.move(text.position + 1)
        return scan_array(text)
    layout = find_layout(text, ending) if start == "{" else "lines"
    if layout == "lines":
        # From the beginning again, as bytes, which whoever works on a batch makes text of.
        numbered = number_lines(read_blocks(path))
        return ((number, raw) for number, raw in numbered if not _is_blank(raw))
    return scan_objects(text) if layout == "objects" else scan_document(text)


def _is_blank(raw: Item) -> bool:
    return isinstance(raw, bytes) and (not raw or raw.isspace())
