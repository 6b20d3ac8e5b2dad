"""A file that begins with ``{``: a row a line, rows over several lines, or one object around all.

Such an object is a row itself, or holds rows under their ids, in a list, or column by column. Which
of them it is shows only when all fields have been seen, so it is read whole; rows by the million
are better written as JSON lines.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from posttrain.data.readers.arrays import GAP, TAIL, JsonText, find_break, scan_array
from posttrain.data.readers.batches import Item
from posttrain.data.readers.parse import (
    LARGEST_ROW,
    BrokenRowError,
    parse_row,
    scan_pairs,
    scan_value,
)

# Lists of objects under these names are a row's own, not rows.
_OF_A_ROW = {
    "messages", "conversations", "conversation", "turns", "dialogue", "history", "prompt",
    "completion", "chosen", "rejected", "chosen_messages", "rejected_messages", "tools",
    "functions", "answers", "options", "answer_options", "choices",
}  # fmt: skip
_LIST_OF_OBJECTS = re.compile(rb"\[\s*\{")
_LOOKED_AT = 50
_BEHIND = "text after the end of the object"


class _Member(NamedTuple):
    """A field of the object around all rows."""

    name: str
    line: int
    raw: bytes
    """Its value."""


def find_layout(text: JsonText, ending: str) -> Literal["lines", "objects", "document"]:
    """Look whether a file that begins with ``{`` has a row a line, rows, or one object.

    Args:
        text: At the bracket.
        ending: Of the file's name; a single line of ``.jsonl`` is a row whatever it looks like.
    """
    a_row_a_line = ending in (".jsonl", ".ndjson")
    text.fill(1 << 20)
    while True:
        first, newline, rest = text.text[text.position :].partition("\n")
        try:
            _, end = scan_value(text.text, text.position)
        except (ValueError, RecursionError, StopIteration) as error:
            certain = 0 if newline or text.ended else TAIL
            inside = find_break(error) < text.position + len(first) - certain
            if newline:
                runs_on = not inside and first.rstrip()[-1] in "{[,"
                cut = a_row_a_line and rest.lstrip().startswith("{")  # only this row, then
                return "document" if runs_on and not cut else "lines"
            if text.ended and not a_row_a_line:
                return "document"  # what can be read of it
            if text.ended or (inside and a_row_a_line) or len(first) > LARGEST_ROW:
                return "lines"
        else:
            several = text.text.count("\n", text.position, end) > 0
            if text.text[end : end + TAIL].strip() or text.text[end:].strip():
                return "objects" if several else "lines"
            if text.ended:
                return "lines" if a_row_a_line and not several else "document"
        text.fill(2 * (len(text.text) - text.position))


def scan_document(text: JsonText) -> Iterator[tuple[int, Item]]:
    """Read a file that is one object.

    Args:
        text: At its bracket.

    Yields:
        Line and row, or what is wrong; columns have the row's number in place of the line.
    """
    text.fill(sys.maxsize)
    whole, line = text.show(sys.maxsize), text.line
    members: list[_Member] = []
    findings: list[tuple[int, BrokenRowError]] = []
    for item in _read_members(text):
        if isinstance(item, _Member):
            members.append(item)
        else:
            findings.append(item)
    layout = _choose_layout(members)
    if layout == "row":
        yield line, whole
        return
    if layout == "ids":
        yield from _scan_ids(members)
    elif layout == "list":
        (rows,) = filter(_holds_rows, members)
        inner = JsonText(iter([rows.raw]), rows.line)
        inner.peek()
        inner.move(inner.position + 1)
        yield from scan_array(inner)
    elif all(finding.reason == _BEHIND for _, finding in findings):
        yield from _scan_columns(members)  # without one of them no row would be what it was
    yield from findings


def _choose_layout(members: Sequence[_Member]) -> Literal["ids", "columns", "list", "row"]:
    if found := _look_for_rows(members):
        return found
    if _are_columns(members):
        return "columns"
    return "list" if len(list(filter(_holds_rows, members))) == 1 else "row"


def _holds_rows(member: _Member) -> bool:
    """Whether a field is a list of objects that may be rows."""
    return member.name not in _OF_A_ROW and _LIST_OF_OBJECTS.match(member.raw) is not None


def _read_members(text: JsonText) -> Iterator[_Member | tuple[int, BrokenRowError]]:
    text.move(text.position + 1)
    while text.peek(GAP) not in ("", "}"):
        start = text.line
        name = text.read_value(sys.maxsize)
        if not name or not isinstance(name[1], bytes) or name[1][:1] != b'"' or text.peek() != ":":
            problem = "no field; nothing more is read"
            yield start, BrokenRowError("broken JSON", problem, text.show())
            return
        text.move(text.position + 1)
        text.peek()
        key, start = str(json.loads(name[1].decode(errors="replace"))), text.line
        value = text.read_value(sys.maxsize)
        if value is None:
            yield _Member(key, start, text.show(sys.maxsize))  # cut short: told by who reads it
            return
        line, raw = value
        if isinstance(raw, bytes):
            yield _Member(key, line, raw)
            continue
        whole, begin = text.text[text.position :], text.offset
        skipped = text.skip_value()
        member = _Member(
            key, start, whole[: text.offset - begin].encode("utf-8", "surrogateescape")
        )
        if _holds_rows(member):
            yield member  # its broken items are told one by one
        else:
            yield line, raw
        if not skipped:
            return
    if not text.peek():
        yield text.line, BrokenRowError(text.torn or "the file ends inside an object")
        return
    text.move(text.position + 1)
    if text.peek():
        yield text.line, BrokenRowError(_BEHIND, "", text.show())


def _look_for_rows(members: Sequence[_Member]) -> Literal["ids", "columns"] | None:
    """Whether all fields are objects alike: rows under their ids, or columns of numbered rows."""
    if len(members) < 2 or not all(member.raw.startswith(b"{") for member in members):
        return None
    rows = [parse_row(member.raw) for member in members[:_LOOKED_AT]]
    names = [set(row) for row in rows if isinstance(row, dict)]
    if not names or 2 * len(set.intersection(*names)) < len(set.union(*names)):
        return None
    # As pandas writes a table: {"question": {"0": "...", "1": "..."}, "answer": {"0": ...}}
    return "columns" if all(name.isdecimal() for name in set.union(*names)) else "ids"


def _scan_ids(members: Sequence[_Member]) -> Iterator[tuple[int, Item]]:
    seen: set[str] = set()
    for name, line, raw in members:
        row = parse_row(raw)
        if name in seen:
            row = BrokenRowError("a key is there twice", f"`{name[:100]}`", raw)
        seen.add(name)
        yield line, {"id": name, **row} if isinstance(row, dict) else row


def _are_columns(members: Sequence[_Member]) -> bool:
    """Whether all fields are lists of one length, and not the lists of a single row."""
    objects = [m.name for m in members if _LIST_OF_OBJECTS.match(m.raw)]
    if not members or len(objects) == len(members) or _OF_A_ROW.intersection(objects):
        return False
    if not all(member.raw.startswith(b"[") for member in members):
        return False
    columns = [_read_column(member.raw) for member in members]
    return len({len(column) for column in columns if not isinstance(column, BrokenRowError)}) <= 1


def _scan_columns(members: Sequence[_Member]) -> Iterator[tuple[int, Item]]:
    columns: dict[str, Any] = {}
    for name, line, raw in members:
        column = BrokenRowError("a key is there twice") if name in columns else _read_column(raw)
        if isinstance(column, BrokenRowError):
            yield line, BrokenRowError(column.reason, f"column `{name[:100]}` {column.detail}", raw)
            return
        columns[name] = column
    for number, values in enumerate(zip(*columns.values(), strict=False), start=1):
        # As text again: the checks of a row are made where rows are parsed.
        yield number, json.dumps(dict(zip(columns, values, strict=True))).encode()


def _read_column(raw: bytes) -> list[Any] | BrokenRowError:
    try:
        column, _ = scan_pairs(raw.decode(), 0)
    except (ValueError, RecursionError, StopIteration) as error:
        return error if isinstance(error, BrokenRowError) else BrokenRowError("broken JSON")
    return list(column.values()) if isinstance(column, dict) else column
