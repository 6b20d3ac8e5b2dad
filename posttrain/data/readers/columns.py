"""Parquet and Arrow, through pyarrow; their rows count from 1 in place of lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.data.readers.batches import RowBatch
from posttrain.data.readers.parse import BrokenRowError
from posttrain.data.records import Origin, Row, RowError
from posttrain.errors import DataError
from posttrain.extras import require_extra

# How many rows are lost with a damaged one must not depend on how many go into a batch.
_READ_AT_ONCE = 256
_MAGIC = b"ARROW1\0\0"


@dataclass(frozen=True, slots=True)
class ArrowBatch(RowBatch):
    """Rows as Arrow keeps them, which become Python's where ``rows`` is called."""

    packed: bytes = b""
    """One record batch, as an Arrow stream."""

    def head(self, count: int) -> RowBatch:
        """Return the first rows only."""
        return replace(self, lines=self.lines[:count])

    def __len__(self) -> int:
        return len(self.lines)

    def rows(self) -> Iterator[tuple[Origin, Row | RowError]]:
        """Yield each row with its number; a broken one as the error that says why."""
        ipc = require_extra("pyarrow.ipc", "parquet")
        with ipc.open_stream(self.packed) as stream:
            table = stream.read_next_batch().slice(0, len(self))
        try:
            rows = table.to_pylist()
        except _unreadable():
            rows = [None] * len(self)
        for position, (number, row) in enumerate(zip(self.lines, rows, strict=True)):
            made = _read_row(table.slice(position, 1)) if row is None else _make_row(row)
            yield Origin(self.file, number), made


def scan_columns(path: Path, ending: str, rows_per_batch: int) -> Iterator[RowBatch]:
    """Read a Parquet or Arrow file.

    Args:
        path: The file.
        ending: ``.parquet``, or one of Arrow's.
        rows_per_batch: Most rows of a batch.

    Raises:
        DataError: It is no such file.
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = require_extra("pyarrow", "parquet")
    batches = _read_parquet(path) if ending == ".parquet" else _read_arrow(path)
    name = "Parquet" if ending == ".parquet" else "Arrow"
    number = 0
    while True:
        try:
            batch = next(batches, None)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            if number == 0:
                raise DataError(
                    f"{path}: broken {name}: {problem}", hint="fetch it again"
                ) from error
            broken = BrokenRowError("the file is damaged", f"broken {name}: {problem}")
            yield RowBatch(str(path), [number + 1], [broken])
            return
        if batch is None:
            return
        for start in range(0, batch.num_rows, rows_per_batch):
            part = batch.slice(start, rows_per_batch)
            yield _pack(path, number + 1, part)
            number += part.num_rows


def _read_parquet(path: Path) -> Iterator[Any]:
    with require_extra("pyarrow.parquet", "parquet").ParquetFile(path) as file:
        _check_names(path, file.schema_arrow.names)
        yield from file.iter_batches(batch_size=_READ_AT_ONCE)


def _read_arrow(path: Path) -> Iterator[Any]:
    """Read the stream form; the file form is the same between its magic and its footer.

    So a file that is cut short gives the rows before the cut, and none has to be held whole.
    """
    pyarrow = require_extra("pyarrow", "parquet")
    with pyarrow.OSFile(str(path)) as file:
        file.seek(len(_MAGIC) if file.read(len(_MAGIC)) == _MAGIC else 0)
        with require_extra("pyarrow.ipc", "parquet").open_stream(file) as stream:
            _check_names(path, stream.schema.names)
            yield from stream


def _check_names(path: Path, names: list[str]) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: two columns are named `{twice[0]}`", hint="rename one")


def _pack(path: Path, first: int, batch: Any) -> RowBatch:
    """Make a batch that another process can unpack; broken rows become findings here."""
    pyarrow = require_extra("pyarrow", "parquet")
    lines = range(first, first + batch.num_rows)
    items: list[Row | BrokenRowError] = []
    try:
        # Offsets and UTF-8: unpacking a batch that lies about them could read past its end.
        batch.validate(full=True)
    except pyarrow.ArrowException:
        for number in range(batch.num_rows):
            items.append(_read_row(batch.slice(number, 1)))
        return RowBatch(str(path), lines, items)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return ArrowBatch(str(path), lines, (), sink.getvalue().to_pybytes())


def _unreadable() -> tuple[type[Exception], ...]:
    """What pyarrow raises of values that Python cannot hold, such as a day of the year 20000."""
    arrow = require_extra("pyarrow", "parquet").ArrowException
    return (arrow, ValueError, OverflowError, TypeError)


def _read_row(batch: Any) -> Row | BrokenRowError:
    try:
        batch.validate(full=True)
        return _make_row(batch.to_pylist()[0])
    except _unreadable() as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        reason = "not UTF-8 text" if "UTF8" in problem.upper() else "a broken row"
        return BrokenRowError(reason, problem)


def _make_row(values: dict[str, Any]) -> Row | BrokenRowError:
    try:
        return {name: make_plain(value) for name, value in values.items()}
    except BrokenRowError as error:
        return BrokenRowError(error.reason, error.detail, repr(values))


def make_plain(value: Any) -> Any:
    """Make of a value what JSON can hold: dates and decimals become text.

    Raises:
        BrokenRowError: A text holds a NUL character.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise BrokenRowError("a NUL character")
        return value
    if isinstance(value, dict):
        return {name: make_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [make_plain(item) for item in value]
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"  # an image, say; no text is made of it
    return value if value is None or isinstance(value, (int, float)) else str(value)
