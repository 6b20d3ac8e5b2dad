"""Rows on their way from a file to whoever reads them: cheap to send to another process."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from posttrain.data.readers.parse import BrokenRowError, parse_row
from posttrain.data.records import Origin, Row, RowError
from posttrain.errors import DataError

Item = bytes | Row | BrokenRowError


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Some rows of a file. JSON is still text, to be parsed where ``rows`` is called."""

    file: str
    lines: Sequence[int]
    """Where each row starts, counted from 1."""
    items: Sequence[Item]
    """Bytes of a JSON object, a row, or what is wrong with it."""

    def __len__(self) -> int:
        return len(self.items)

    def head(self, count: int) -> RowBatch:
        """Return the first rows only."""
        return replace(self, lines=self.lines[:count], items=self.items[:count])

    def rows(self) -> Iterator[tuple[Origin, Row | RowError]]:
        """Yield each row with its place; a broken one as the error that says why."""
        file = self.file
        for line, item in zip(self.lines, self.items, strict=True):
            yield Origin(file, line), parse_row(item) if isinstance(item, bytes) else item


def pick_rows(batches: Iterable[RowBatch], numbers: Sequence[int]) -> Iterator[Row]:
    """Parse some rows, which could be read before, and no others.

    Args:
        batches: Of one or more files.
        numbers: Of the wanted rows among all, counted from 0, rising.

    Raises:
        DataError: One is no longer there, or is broken.
    """
    first, done, file = 0, 0, ""
    for batch in batches if numbers else ():
        file, behind = batch.file, bisect_left(numbers, first + len(batch), done)
        for number in numbers[done:behind]:
            item = batch.items[number - first]
            row = parse_row(item) if isinstance(item, bytes) else item
            if isinstance(row, RowError):
                raise changed_while_read(file)
            yield row
        first, done = first + len(batch), behind
        if done == len(numbers):
            return
    if numbers:
        raise changed_while_read(file)


def changed_while_read(file: str) -> DataError:
    """Make the error of a file that is another than at the start."""
    return DataError(
        f"{file} has changed while it was read", hint="run the same command again once it is whole"
    )


def collect(
    path: Path, items: Iterable[tuple[int, Item]], rows_per_batch: int
) -> Iterator[RowBatch]:
    """Make batches of rows and their line numbers."""
    lines: list[int] = []
    held: list[Item] = []
    for line, item in items:
        lines.append(line)
        held.append(item)
        if len(held) == rows_per_batch:
            yield RowBatch(str(path), lines, held)
            lines, held = [], []
    if held:
        yield RowBatch(str(path), lines, held)
