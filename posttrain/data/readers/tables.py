"""CSV and TSV: a header with the columns' names, then a row a line, or over several in quotes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from posttrain.data.readers.parse import LARGEST_ROW, BrokenRowError
from posttrain.data.records import Row
from posttrain.errors import DataError

# Excel writes its separator down where it is another than the country's.
_SEPARATOR = re.compile(r'"?sep=(.)"?\s*')


class _Lines:
    """Lines for ``csv.reader``, which remember where its row started and what is wrong with it."""

    def __init__(self, numbered: Iterator[tuple[int, bytes | BrokenRowError]]) -> None:
        self.findings: list[tuple[int, BrokenRowError]] = []
        """Lines that were kept from the reader."""
        self._first = 0
        self._problem = ""
        self._number = 0
        self._pieces = (piece for _, line in numbered for piece in self._take(line))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = next(self._pieces)
        self._first = self._first or self._number
        return piece

    def end_row(self) -> tuple[int, str]:
        """Return on which line the row started and what is wrong with it, and go on to the next."""
        ended = self._first or self._number, self._problem
        self._first, self._problem = 0, ""
        return ended

    def _take(self, line: bytes | BrokenRowError) -> Iterator[str]:
        if isinstance(line, BrokenRowError):
            self._number += 1
            self.findings.append((self._number, line))
            return
        problem = "a NUL character" if b"\0" in line else ""
        try:
            text = line.decode() + "\n"
        except UnicodeDecodeError:
            text = line.decode(errors="replace") + "\n"
            problem = "not UTF-8 text"
        # A carriage return alone ends a line as well.
        for piece in re.split(r"(?<=\r)(?!\n)", text) if "\r" in text else (text,):
            self._number += 1
            self._problem = self._problem or problem
            yield piece


def scan_table(
    path: Path, numbered: Iterator[tuple[int, bytes | BrokenRowError]], ending: str
) -> Iterator[tuple[int, Row | BrokenRowError]]:
    """Read a table.

    Args:
        path: The file, for errors.
        numbered: Its lines.
        ending: ``.tsv`` is parted by tabs; else the header shows whether by ``,`` or ``;``.

    Yields:
        Line and row, or what is wrong with it.

    Raises:
        DataError: The header cannot be used.
    """
    csv.field_size_limit(LARGEST_ROW)  # Python's own is shorter than many documents
    lines = _Lines(numbered)
    head = next(lines, "")
    if named := _SEPARATOR.fullmatch(head):
        lines.end_row()
        delimiter, head = named[1], ""
    else:
        delimiter = "\t" if ending == ".tsv" else _find_delimiter(head)
    table = csv.reader(chain([head] if head else [], lines), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        values: list[str] | None = None
        try:
            values = next(table)
            problem = ""
        except StopIteration:
            break
        except csv.Error as error:
            problem = str(error)
        line, found = lines.end_row()
        if lines.findings and problem:
            break  # the reader met the end of what could be read
        if not names:
            names = _read_names(path, line, values, found or problem)
        elif found or problem:
            raw = delimiter.join(values or ())
            yield line, BrokenRowError(found or "broken table", problem, raw)
        elif values:
            yield line, _build(names, values, delimiter)
        yield from lines.findings
        lines.findings.clear()
    yield from lines.findings


def _build(names: list[str], values: list[str], delimiter: str) -> Row | BrokenRowError:
    if len(values) == len(names):
        return dict(zip(names, values, strict=True))
    problem = f"{len(names)} columns are named in the header, this row has {len(values)}"
    return BrokenRowError("another number of columns", problem, delimiter.join(values))


def _read_names(path: Path, line: int, values: list[str] | None, problem: str) -> list[str]:
    if problem:
        raise DataError(
            f"{path}:{line}: the header cannot be read: {problem}", hint="save it as CSV in UTF-8"
        )
    names = values or []
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}:{line}: two columns are named `{twice[0]}`", hint="rename one")
    return names


def _find_delimiter(head: str) -> str:
    """Take another one only where commas part nothing."""
    for delimiter in ",;\t":
        if len(next(csv.reader([head], delimiter=delimiter), [])) > 1:
            return delimiter
    return ","
