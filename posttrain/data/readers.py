"""Files -> rows, each tagged with its file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.data.records import Origin, Row
from posttrain.errors import DataError
from posttrain.extras import require_extra

_BROKEN_HINT = "mend or remove this line, then run again"
# Python's own limit, 131,072 characters, is shorter than many documents.
_LONGEST_FIELD = 2**31 - 1


def read_rows(path: Path) -> Iterator[tuple[Origin, Row]]:
    """Read a JSON, JSONL, CSV or Parquet file row by row.

    Args:
        path: The file. ``.parquet`` is Parquet, whose rows count from 1 in place of lines;
            ``.csv`` and ``.tsv`` are tables with a header; a file that starts with ``[`` is a JSON
            array; anything else is one JSON object a line. Text may be packed as ``.gz``.

    Yields:
        Origin and row; every row is a mapping.

    Raises:
        DataError: The file is missing, empty, not UTF-8, or a line is broken; with file:line.
        MissingExtraError: It is Parquet, and pyarrow is not installed.
    """
    kind = _find_ending(path)
    if kind in (".txt", ".md"):
        raise DataError(
            f"{path}: plain text holds no rows",
            hint="it is for `pretrain` and `mlm` stages, and for extend-tokenizer",
        )
    text = "" if kind == ".parquet" else _read_text(path)
    if kind == ".parquet":
        rows = _read_parquet(path)
    elif kind in (".csv", ".tsv"):
        rows = _read_table(path, text)
    elif text.lstrip()[:1] == "[":
        rows = _read_array(path, text)
    else:
        rows = _read_lines(path, text)
    empty = True
    for origin, row in rows:
        empty = False
        if not isinstance(row, dict):
            raise DataError(
                f"{origin}: a row must be an object with named fields, not {type(row).__name__}",
                hint=_BROKEN_HINT,
            )
        yield origin, row
    if empty:
        raise DataError(f"{path}: no rows", hint="check that this is the file you meant")


def read_documents(path: Path, unit: str) -> Iterator[tuple[Origin, Row]]:
    """Read a text file as documents.

    Args:
        path: The file.
        unit: ``file``, ``line`` or ``paragraph`` (parted by blank lines).

    Yields:
        Origin and ``{"text": ...}``; blank lines between documents belong to none.

    Raises:
        DataError: The file is missing, empty or not UTF-8.
    """
    lines = _read_text(path).splitlines(keepends=True)
    held: list[str] = []
    start, empty = 1, True
    for number, line in enumerate([*lines, ""], start=1):
        ends = number > len(lines) or (unit != "file" and not line.strip())
        if held and (ends or unit == "line"):
            text = "".join(held) if unit == "file" else "".join(held).rstrip("\r\n")
            yield Origin(str(path), start), {"text": text}
            held, empty = [], False
        if not ends:
            start = start if held else number
            held.append(line)
    if empty:
        raise DataError(f"{path}: no text", hint="check that this is the file you meant")


def check_file(path: Path) -> Path:
    """Look whether a file of rows can be read, without reading it.

    Returns:
        The path.

    Raises:
        DataError: It does not exist, is a folder, or may not be read.
        MissingExtraError: It is Parquet, and pyarrow is not installed.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder", hint="give a file of rows")
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="check the path in the recipe")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: cannot be read: permission denied")
    if _find_ending(path) == ".parquet":
        require_extra("pyarrow.parquet", "parquet")
    return path


def _find_ending(path: Path) -> str:
    """What kind of file it is; ``.gz`` only says how it is packed."""
    unpacked = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return unpacked.suffix.lower()


def _read_text(path: Path) -> str:
    packed = path.suffix.lower() == ".gz"
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if packed else content).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", hint="check the path in the recipe") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 text", hint="convert it to UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: broken gzip: {error}", hint="fetch or pack it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _read_parquet(path: Path) -> Iterator[tuple[Origin, Any]]:
    check_file(path)
    pyarrow = require_extra("pyarrow", "parquet")
    number = 0
    try:
        with require_extra("pyarrow.parquet", "parquet").ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield Origin(str(path), number), _make_plain(row)
    except (pyarrow.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0]
        raise DataError(
            f"{path}: broken Parquet after row {number}: {problem}", hint="fetch it again"
        ) from error


def _make_plain(value: Any) -> Any:
    """Make of a Parquet value what JSON can hold: dates and decimals become text."""
    if isinstance(value, dict):
        return {name: _make_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_make_plain(item) for item in value]
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"  # an image, say; no text is made of it
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _read_lines(path: Path, text: str) -> Iterator[tuple[Origin, Any]]:
    # Not splitlines(): it also breaks at characters such as U+2028, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield Origin(str(path), number), json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _broken_json(path, number, error) from None


def _broken_json(path: Path, line: int, error: Exception) -> DataError:
    """Describe what ``json`` raised; besides broken syntax, endless numbers and deep nesting."""
    problem = str(error)
    if isinstance(error, json.JSONDecodeError):
        problem = f"at column {error.colno}: {error.msg}"
    return DataError(f"{path}:{line}: broken JSON {problem}", hint=_BROKEN_HINT)


def _read_array(path: Path, text: str) -> Iterator[tuple[Origin, Any]]:
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    line = 1 + text.count("\n", 0, position)
    while True:
        start = position
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", start, position)
        if position >= len(text):
            raise DataError(f"{path}:{line}: the JSON array is not closed", hint=_BROKEN_HINT)
        if text[position] == "]":
            break
        try:
            row, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _broken_json(path, getattr(error, "lineno", line), error) from None
        yield Origin(str(path), line), row
        line += text.count("\n", position, end)
        position = end
    rest = text[position + 1 :]
    if rest.strip():
        line += rest[: len(rest) - len(rest.lstrip())].count("\n")
        raise DataError(f"{path}:{line}: text after the end of the JSON array", hint=_BROKEN_HINT)


def _read_table(path: Path, text: str) -> Iterator[tuple[Origin, Any]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(_LONGEST_FIELD)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    line = 1
    try:
        for values in table:
            if not names:
                names = values
                if twice := [name for name in names if names.count(name) > 1]:
                    raise DataError(f"{path}:{line}: two columns are named `{twice[0]}`")
            elif values and len(values) != len(names):
                raise DataError(
                    f"{path}:{line}: {len(names)} columns are named in the header, "
                    f"this row has {len(values)}",
                    hint=_BROKEN_HINT,
                )
            elif values:
                yield Origin(str(path), line), dict(zip(names, values, strict=True))
            line = table.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{table.line_num}: broken table: {error}") from None
