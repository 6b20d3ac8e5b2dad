"""Rows -> a file of the kind that its name says: JSON lines, a JSON array, a table, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from posttrain.data.formats.fields import scalar_text
from posttrain.data.records import Origin, Reject, Row
from posttrain.errors import ConfigError, DataError
from posttrain.extras import require_extra
from posttrain.files import dump_line, open_atomic, write_jsonl, write_text

_TABLES = {".csv": ",", ".tsv": "\t"}
_ENDINGS = (".jsonl", ".ndjson", ".json", *_TABLES, ".parquet")


def check_row_file(path: Path) -> None:
    """Check that rows can be written under a name.

    Raises:
        ConfigError: Its ending says nothing.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise ConfigError(
            f"out: {path}: the ending says in which way to write",
            hint=f"name it *{', *'.join(_ENDINGS)}",
        )


def holds_findings(path: Path) -> bool:
    """Whether a file is empty, or starts with a line of findings as we write them."""
    try:
        with path.open(encoding="utf-8") as lines:
            line = lines.readline()
        found = json.loads(line) if line else None
    except (OSError, ValueError):
        return False
    keys = Reject(Origin("", 0), "").to_json().keys()
    return not line or (isinstance(found, dict) and found.keys() == keys)


def write_row_file(path: Path, rows: Iterable[Row]) -> None:
    """Write rows to a file that is whole or absent.

    Args:
        path: Its ending says how; of JSON, one row at a time is in memory.
        rows: Drawn once.

    Raises:
        DataError: A table or Parquet cannot hold a row's nested part as it is.
        MissingExtraError: Parquet needs the extra ``parquet``.
    """
    ending = path.suffix.lower()
    if ending in _TABLES:
        _write_table(path, list(rows), _TABLES[ending])
    elif ending == ".parquet":
        _write_parquet(path, list(rows))
    elif ending == ".json":
        with open_atomic(path) as file:
            separator = b"[\n"
            for row in rows:
                file.write(separator + dump_line(row).encode())
                separator = b",\n"
            file.write(b"\n]\n")
    else:
        write_jsonl(path, rows)


def _list_columns(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _write_table(path: Path, rows: list[Row], delimiter: str) -> None:
    text = io.StringIO()
    columns = _list_columns(rows)
    table = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        for name, value in row.items():
            if isinstance(value, list | dict):
                raise DataError(
                    f"out: {path}: a table cannot hold the nested field `{name}`",
                    hint="write to=messages_json, whose fields are text, or name it *.jsonl",
                )
        table.writerow([scalar_text(row.get(name)) for name in columns])
    write_text(path, text.getvalue())


def _write_parquet(path: Path, rows: list[Row]) -> None:
    arrow = require_extra("pyarrow", "parquet")
    parquet = require_extra("pyarrow.parquet", "parquet")
    columns = {name: [row.get(name) for row in rows] for name in _list_columns(rows)}
    try:
        table = arrow.table(columns)
        with open_atomic(path) as file:
            # Arrow gives every object of a column the fields of all of them; more of them than a
            # row had would come back as other declarations and other arguments.
            for name, values in columns.items():
                if not _same(table[name].to_pylist(), values):
                    raise _union(path, f"the objects in `{name}` have different fields")
            parquet.write_table(table, file)
    except (arrow.ArrowException, OverflowError) as error:
        raise _union(path, str(error).partition("\n")[0]) from None


def _same(read: Any, written: Any) -> bool:
    """Whether a value comes back as it was, but for keys of nothing on a turn."""
    if isinstance(written, list):
        alike = isinstance(read, list) and len(read) == len(written)
        return alike and all(map(_same, read, written))
    if isinstance(written, dict):
        return isinstance(read, dict) and _drop_nothing(read) == _drop_nothing(written)
    return bool(read == written)


def _drop_nothing(value: Row) -> Row:
    return {key: inner for key, inner in value.items() if inner is not None}


def _union(path: Path, problem: str) -> DataError:
    return DataError(
        f"out: {path}: Parquet has one type a column: {problem}",
        hint="write to=messages_json, whose nested parts are JSON text",
    )
