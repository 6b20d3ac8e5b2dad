"""One JSON object -> a row, or why it is none."""

from __future__ import annotations

import json
import math
from json.scanner import c_make_scanner  # type: ignore[attr-defined]
from typing import Any

from posttrain.data.records import Row, RowError

SHOWN = 2000
"""Most characters of a broken row that are kept."""
LARGEST_ROW = 64 << 20
"""Bytes; longer rows are not read."""
DEEPEST = 200
"""Levels of objects and lists in each other; more would end in Python's recursion limit, here or
in whatever looks at the row next."""

_SPACE = " \t\r\n"
_BOM = b"\xef\xbb\xbf"


class BrokenRowError(RowError):
    """A row that could not be read.

    Args:
        reason: Short and countable.
        detail: What is special to this row.
        raw: Its text, or the beginning of it.
    """

    def __init__(self, reason: str, detail: str = "", raw: bytes | str = "") -> None:
        super().__init__(reason, detail)
        if isinstance(raw, bytes):
            # A character has at most 4 bytes; none is cut in two below the shown ones.
            raw = raw[: 4 * SHOWN].decode(errors="replace")
        self.row = raw[:SHOWN]
        """For a reject's ``row``."""


def parse_row(raw: bytes) -> Row | BrokenRowError:
    """Parse one JSON object.

    Args:
        raw: UTF-8, perhaps with white space around it.

    Returns:
        The object, or why it is not used: broken, a key twice, NaN, a NUL, half a surrogate pair,
        too deep, no object. Every one of them would be changed or lost without a word later on.
    """
    try:
        text = raw.decode().strip(_SPACE)
        row, end = _scan(text, 0)
        if end < len(text):
            return _broken(text, end, "text after the object", raw)
        if type(row) is not dict:
            return BrokenRowError("a row must be an object", f"not {_name(row)}", raw)
        # A deep row has many brackets, which are counted at once; nearly all rows end here.
        if raw.count(b"[") + raw.count(b"{") > DEEPEST and _depth(row) > DEEPEST:
            return BrokenRowError("nested too deeply", f"more than {DEEPEST} levels", raw)
        if "\\u" in text and (problem := _find_bad_text(text, row)):
            return BrokenRowError(problem, "", raw)
        return row
    except (ValueError, RecursionError, StopIteration) as error:
        if raw.lstrip().startswith(_BOM):
            return parse_row(raw.lstrip()[len(_BOM) :])
        return describe_error(error, raw)


def describe_error(error: Exception, raw: bytes | str) -> BrokenRowError:
    """Say in a countable way what ``json`` raised.

    Args:
        error: From the scanner or one of the hooks below.
        raw: What was parsed.
    """
    if isinstance(error, BrokenRowError):
        return BrokenRowError(error.reason, error.detail, raw)
    if isinstance(error, UnicodeDecodeError):
        return BrokenRowError("not UTF-8 text", f"at byte {error.start + 1}", raw)
    if isinstance(error, RecursionError):
        return BrokenRowError("nested too deeply", f"more than {DEEPEST} levels", raw)
    if ("\0" if isinstance(raw, str) else b"\0") in raw:  # type: ignore[operator]
        return BrokenRowError("a NUL character", "", raw)
    if isinstance(error, json.JSONDecodeError):
        return BrokenRowError("broken JSON", f"at column {error.colno}: {error.msg}", raw)
    if isinstance(error, StopIteration):
        return _broken(raw, error.value, "Expecting value", raw)
    # Python refuses to read a whole number of more than 4,300 digits.
    return BrokenRowError("a number is too long", "", raw)


def _broken(text: bytes | str, position: int, problem: str, raw: bytes | str) -> BrokenRowError:
    return BrokenRowError("broken JSON", f"at column {position + 1}: {problem}", raw)


def _name(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _keep_pairs(pairs: list[tuple[str, Any]]) -> Row:
    """Refuse an object that has a key twice, of which ``json`` would keep the last one."""
    row = dict(pairs)
    if len(row) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise BrokenRowError("a key is there twice", f"`{twice[:100]}`")
    return row


def _refuse_constant(name: str) -> Any:
    raise BrokenRowError("NaN or Infinity", name)


def _read_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BrokenRowError("NaN or Infinity", f"{text[:100]} is beyond a float")
    return value


def _depth(row: Row) -> int:
    """Levels of objects and lists; no recursion, for that is what must not be trusted."""
    depth = 0
    level: list[Any] = [row]
    while level:
        depth += 1
        inner = (v for x in level for v in (x.values() if isinstance(x, dict) else x))
        level = [value for value in inner if isinstance(value, (dict, list))]
    return depth


def _find_bad_text(text: str, row: Row) -> str:
    """Look for a NUL and for half a surrogate pair, which JSON can write as escapes."""
    if "\\u0000" in text or "\\ud" in text or "\\uD" in text:
        return _walk(row)  # those may also be a backslash and some letters: look at the values
    return ""


def _walk(row: Row) -> str:
    waiting: list[Any] = [row]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if "\0" in value:
                return "a NUL character"
            if not _is_unicode(value):
                return "a text is not valid Unicode"
        elif isinstance(value, dict):
            waiting += value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# The C scanner itself: `json.loads` would look for white space with two regular expressions a row.
_scan = c_make_scanner(
    json.JSONDecoder(
        object_pairs_hook=_keep_pairs, parse_constant=_refuse_constant, parse_float=_read_float
    )
)
scan_pairs = c_make_scanner(json.JSONDecoder(object_pairs_hook=_keep_pairs))
"""As ``scan_value``, but a key that is there twice is refused."""
scan_value = c_make_scanner(json.JSONDecoder())
"""``(text, start) -> (value, end)``, without the checks; to find where a value ends."""
