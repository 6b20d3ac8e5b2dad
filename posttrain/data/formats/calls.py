"""Tool calls of other notations -> [{type, function: {name, arguments}}].

Pythonic calls (``weather.forecast(q="Paris", days=5)``) are cut by a scanner that knows strings
and brackets, since names of functions and arguments need not be Python's: ``get-weather``,
``convert(from='EUR')``. The values are Python or JSON literals, read with ``ast``; nothing is ever
evaluated.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from typing import Any

from posttrain.data.formats.fields import parse_json
from posttrain.data.records import RowError

Call = dict[str, Any]
UNREADABLE = "a function call cannot be read"

_LEXEME = re.compile(
    r'"""(?:[^\\]|\\.)*?"""' r"|'''(?:[^\\]|\\.)*?'''"
    r'|"(?:[^"\\]|\\.)*"' r"|'(?:[^'\\]|\\.)*'" r"|.",
    re.DOTALL,
)  # fmt: skip
_CALL = re.compile(r"\s*([^\s()\[\]{}'\",;=]+)\s*\((.*)\)\s*", re.DOTALL)
_ARGUMENT = re.compile(r"\s*([^\s()\[\]{}'\",;=*]+)\s*=(.*)", re.DOTALL)
_JSON_WORDS = {"true": True, "false": False, "null": None}


def make_call(name: str, arguments: dict[str, Any]) -> Call:
    """Return a call the way chat templates expect it."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def read_calls(value: Any, what: str) -> list[Call]:
    """Read calls from JSON or from Pythonic text.

    Args:
        value: ``{name, arguments}``, optionally wrapped in ``function``, a list of such, either of
            them as JSON text, or Pythonic text: one call a line, or a bracketed list.
        what: Turn or field, for the reject.

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
            return _read_pythonic(text, what)
    items = value if isinstance(value, list) else [value]
    if not items:
        raise RowError(UNREADABLE, f"{what}: no call in it")
    return [_read_object(item, what) for item in items]


def _read_object(item: Any, what: str) -> Call:
    function = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("a tool call has no function name", what)
    arguments = function.get("arguments", function.get("parameters")) or {}
    if isinstance(arguments, str):
        arguments = parse_json(arguments, f"{what} arguments")
    if not isinstance(arguments, dict):
        raise RowError("tool call arguments are not an object", what)
    return make_call(function["name"], arguments)


def _read_pythonic(text: str, what: str) -> list[Call]:
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    calls = [_read_one(part, what) for part in _split(text, "\n;,", what)]
    if not calls:
        raise RowError(UNREADABLE, f"{what}: no call in it")
    return calls


def _read_one(text: str, what: str) -> Call:
    found = _CALL.fullmatch(text)
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
    try:
        with warnings.catch_warnings():
            # "\d" in a string is only deprecated: the backslash stays.
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval")
        value = _to_json(tree.body)
        json.dumps(value)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RowError(UNREADABLE, f"{what}: {text[:80]}: {error}") from None
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
