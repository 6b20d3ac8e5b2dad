"""Tool calls of other notations -> [{type, function: {name, arguments}}].

Pythonic calls (``weather.forecast(q="Paris", days=5)``) are cut by a scanner that knows strings
and brackets, since names of functions and arguments need not be Python's: ``get-weather``,
``convert(from='EUR')``. The values are Python or JSON literals, read with ``ast``; nothing is ever
evaluated.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import re
import warnings
from typing import Any

from posttrain.data.formats.fields import check_json, parse_json, scalar_text
from posttrain.data.records import RowError

Call = dict[str, Any]
UNREADABLE = "a function call cannot be read"

# Text without a sign of its own is one lexeme, however long.
_LEXEME = re.compile(
    r"[^\"'()\[\]{}\n;,]+"
    r'|"""(?:[^\\]|\\.)*?"""' r"|'''(?:[^\\]|\\.)*?'''"
    r'|"[^"\\]*(?:\\.[^"\\]*)*"' r"|'[^'\\]*(?:\\.[^'\\]*)*'" r"|.",
    re.DOTALL,
)  # fmt: skip
_CALL = re.compile(r"\s*([^\s()\[\]{}'\",;=]+)\s*\((.*)\)\s*", re.DOTALL)
_SPACED_CALL = re.compile(r"\s*([^\s()\[\]{}'\",;=][^()\[\]{}'\",;=\n]*?)\s*\((.*)\)\s*", re.DOTALL)
_ARGUMENT = re.compile(r"\s*([^\s()\[\]{}'\",;=*]+)\s*=(.*)", re.DOTALL)
_JSON_WORDS = {"true": True, "false": False, "null": None}
_WORDS = {**_JSON_WORDS, "True": True, "False": False, "None": None}


def make_call(name: str, arguments: dict[str, Any]) -> Call:
    """Return a call the way chat templates expect it."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def read_call(item: Any, what: str) -> Call:
    """Read one call.

    Args:
        item: ``{name, arguments}``, optionally wrapped in ``function``; the arguments an object or
            its JSON text.
        what: Turn or field, for the reject.

    Returns:
        The call, with its ``id`` where it has one: some templates print it.

    Raises:
        RowError: It has no name, or its arguments are no JSON object.
    """
    function = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("a tool call has no function name", what)
    arguments = function.get("arguments", function.get("parameters")) or {}
    if isinstance(arguments, str):
        arguments = parse_json(arguments, f"{what} arguments") if arguments.strip() else {}
    if not isinstance(arguments, dict):
        raise RowError("tool call arguments are not an object", what)
    check_json(arguments, f"{what} arguments")
    call = make_call(function["name"], arguments)
    identity = item.get("id")
    if identity is None:
        return call
    if not (text := scalar_text(identity)):
        raise RowError("the id of a tool call is not text", what)
    return {"id": text, **call}


def read_calls(value: Any, what: str, *, spaces: bool = False) -> list[Call]:
    """Read calls from JSON or from Pythonic text.

    Args:
        value: ``{name, arguments}``, optionally wrapped in ``function``, a list of such, either of
            them as JSON text, or Pythonic text: one call a line, or a bracketed list.
        what: Turn or field, for the reject.
        spaces: Whether names of functions may hold spaces in Pythonic text.

    Returns:
        The calls in order, at least one.

    Raises:
        RowError: Something is no call; nothing is guessed.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("{") or re.match(r"\[\s*[{\]]", text):
            value = parse_json(text, what)
        else:
            return _read_pythonic(text, what, _SPACED_CALL if spaces else _CALL)
    items = value if isinstance(value, list) else [value]
    if not items:
        raise RowError(UNREADABLE, f"{what}: no call in it")
    return [read_call(item, what) for item in items]


def _read_pythonic(text: str, what: str, shape: re.Pattern[str]) -> list[Call]:
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    calls = [_read_one(part, what, shape) for part in _split(text, "\n;,", what)]
    if not calls:
        raise RowError(UNREADABLE, f"{what}: no call in it")
    return calls


def _read_one(text: str, what: str, shape: re.Pattern[str]) -> Call:
    found = shape.fullmatch(text)
    if not found:
        raise RowError(UNREADABLE, f"{what}: {text.strip()[:80]}")
    name, body = found.groups()
    arguments: dict[str, Any] = {}
    for part in _split(body, ",", what):
        pair = _ARGUMENT.fullmatch(part)
        if not pair:
            raise RowError(UNREADABLE, f"{what}: an argument without a name: {part.strip()[:80]}")
        if pair[1] in arguments:
            raise RowError(UNREADABLE, f"{what}: `{pair[1]}` is given twice")
        arguments[pair[1]] = _read_literal(pair[2].strip(), what)
    return make_call(name, arguments)


def _split(text: str, separators: str, what: str) -> list[str]:
    """Cut at separators that lie in no bracket and in no string; blank parts are left out."""
    parts: list[str] = []
    depth = start = 0
    for lexeme in _LEXEME.finditer(text):
        sign = lexeme[0]
        if sign in ("(", "[", "{"):
            depth += 1
        elif sign in (")", "]", "}"):
            depth -= 1
        elif sign in separators and depth == 0:
            parts.append(text[start : lexeme.start()])
            start = lexeme.end()
        if depth < 0:
            break
    if depth:
        raise RowError(UNREADABLE, f"{what}: unbalanced brackets in {text.strip()[:80]}")
    parts.append(text[start:])
    return [part for part in parts if part.strip()]


def _read_literal(text: str, what: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if "\\" not in text:
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and _is_plain(text):
            return text[1:-1]
        # What both JSON and Python can read means the same in both, but for escapes.
        with contextlib.suppress(ValueError, RecursionError):
            return _checked(json.loads(text, parse_constant=_refuse), what)
    try:
        with warnings.catch_warnings():
            # "\d" in a string is only deprecated: the backslash stays.
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval")
        value = _to_json(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RowError(UNREADABLE, f"{what}: {text[:80]}: {error}") from None
    return _checked(value, what)


def _is_plain(text: str) -> bool:
    """Whether a quoted text holds neither its quote nor the end of a line."""
    return text.count(text[0]) == 2 and "\n" not in text and "\r" not in text and "\0" not in text


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _checked(value: Any, what: str) -> Any:
    try:
        check_json(value, what)
    except RowError as error:
        raise RowError(UNREADABLE, f"{error.detail}: {error.reason}") from None
    return value


def _to_json(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | str() as value):
            return value
        case ast.Constant(value=float() as number) if math.isfinite(number):
            return number
        case ast.Name(id=word) if word in _JSON_WORDS:
            return _JSON_WORDS[word]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_to_json(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            names = [_to_json(key) if key else None for key in keys]
            if not all(isinstance(name, str) for name in names):
                raise ValueError("a key is not text")
            return dict(zip(names, map(_to_json, values), strict=True))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float())):
            value = _to_json(node.operand)
            if isinstance(value, bool):
                raise ValueError("not a number")
            return -value if isinstance(node.op, ast.USub) else value
    raise ValueError("not a literal that JSON has")
