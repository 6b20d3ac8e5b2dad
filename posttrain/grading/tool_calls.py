"""Read function calls out of what a model wrote, and compare them with those accepted.

Nothing is ever evaluated: Python syntax is read by ``ast`` and only literals are taken.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MOST_CHARACTERS = 100_000
_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|(?=<tool_call>)|\Z)", re.S)
_FENCED = re.compile(r"\A```[a-z_]*\n(.*?)\n?```\Z", re.S)
_THOUGHTS = re.compile(r"\A.*</think>", re.S)
_LOOKS_PYTHON = re.compile(r"\A\[?\s*[A-Za-z_][\w.]*\(.*\)\s*\]?\Z", re.S)
_JSON_WORDS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class ToolCall:
    """One function call."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class AcceptedCall:
    """A call that is right, with every accepted value of each argument."""

    name: str
    arguments: Mapping[str, Sequence[Any]]
    optional: frozenset[str] = frozenset()
    """Arguments that may be left out."""
    ignored: Mapping[str, Any] | None = None
    """Further arguments that may be there with this value: declared defaults."""


@dataclass(frozen=True)
class ParsedCalls:
    """Calls found in a text."""

    calls: tuple[ToolCall, ...]
    parse: str
    """``tag``: in ``<tool_call>`` tags; ``json`` and ``python``: the text is a call; ``broken``:
    looks like a call and is none; ``none``: a text without calls."""


class _UnreadableError(ValueError):
    """A text is no call."""


def parse_tool_calls(completion: str, tools: Sequence[Mapping[str, Any]] = ()) -> ParsedCalls:
    """Find the function calls in a completion.

    Args:
        completion: What the model wrote; thoughts before ``</think>`` are passed over.
        tools: Declarations; they name the arguments that a Python call gives by position.

    Returns:
        All calls in order. One unreadable call makes the whole ``broken``.
    """
    text = _THOUGHTS.sub("", completion).strip()
    tagged = [found[1] for found in _TAGGED.finditer(text)]
    if fenced := _FENCED.match(text):
        text = fenced[1].strip()
    parse = "tag" if tagged else "json" if text[:1] in "[{" and text else "python"
    if not tagged and not _looks_like_call(text):
        return ParsedCalls((), "none")
    if len(text) > _MOST_CHARACTERS:
        return ParsedCalls((), "broken")
    order = {_function(tool).get("name"): list(declared_arguments(tool)) for tool in tools}
    calls: list[ToolCall] = []
    for part in tagged or [text]:
        try:
            found, way = _read_calls(part, order)
        except _UnreadableError:
            return ParsedCalls((), "broken")
        calls += found
        parse = "tag" if tagged else way
    return ParsedCalls(tuple(calls), parse)


def _looks_like_call(text: str) -> bool:
    if _LOOKS_PYTHON.match(text):
        return True
    return text[:1] in ("{", "[") and '"name"' in text


def _read_calls(text: str, order: Mapping[Any, list[str]]) -> tuple[list[ToolCall], str]:
    """Read one or several calls, as JSON or as Python."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _read_python(text, order), "python"
    return [_read_object(item) for item in (value if isinstance(value, list) else [value])], "json"


def _read_object(item: Any) -> ToolCall:
    if isinstance(item, dict) and isinstance(item.get("function"), dict):
        item = item["function"]
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise _UnreadableError("no name")
    arguments = item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise _UnreadableError("broken arguments") from error
    if arguments is not None and not isinstance(arguments, dict):
        raise _UnreadableError("arguments are no object")
    return ToolCall(item["name"], arguments or {})


def _read_python(text: str, order: Mapping[Any, list[str]]) -> list[ToolCall]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange escapes inside the model's strings
            body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _UnreadableError("no Python") from error
    nodes: list[ast.expr] = []
    for statement in body:
        if not isinstance(statement, ast.Expr):
            raise _UnreadableError("a statement")
        value = statement.value
        nodes += value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
    if not nodes:
        raise _UnreadableError("nothing")
    return [_read_call(node, order) for node in nodes]


def _read_call(node: ast.expr, order: Mapping[Any, list[str]]) -> ToolCall:
    if not isinstance(node, ast.Call):
        raise _UnreadableError("not a call")
    name = _dotted_name(node.func)
    names = order.get(name, [])
    if len(node.args) > len(names) or any(keyword.arg is None for keyword in node.keywords):
        raise _UnreadableError("arguments without names")
    pairs = [*zip(names, node.args, strict=False)]
    pairs += [(str(keyword.arg), keyword.value) for keyword in node.keywords]
    if len({key for key, _ in pairs}) < len(pairs):
        raise _UnreadableError("an argument is given twice")
    return ToolCall(name, {key: _literal(value) for key, value in pairs})


def _dotted_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted_name(node.value)}.{node.attr}"
    raise _UnreadableError("no name")


def _literal(node: ast.expr) -> Any:
    """Value of a literal; JSON's true, false and null count as such."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.Name) and node.id in _JSON_WORDS:
        return _JSON_WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        keys = [_literal(key) for key in node.keys if key is not None]
        return {str(k): _literal(v) for k, v in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _literal(node.operand)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    raise _UnreadableError("not a literal")


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else tool


def declared_arguments(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments that a declaration names, with their schemas."""
    parameters = _function(tool).get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def accept_calls(
    reference: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    possible: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[AcceptedCall, ...]:
    """Say what counts as right.

    Args:
        reference: Tool calls of the reference turn: ``{"function": {"name", "arguments"}}``.
        tools: Declarations; an argument that is not required may be left out where the reference
            gives its default, and may be added with its default.
        possible: Accepted values instead, as in BFCL: ``{name: {argument: [value, ...]}}`` per
            call; an empty string among the values makes the argument optional.

    Returns:
        One accepted call for each that is expected.
    """
    declared = {str(_function(tool).get("name")): tool for tool in tools}
    if possible is not None:
        return tuple(
            _accept(str(name), {k: list(v) for k, v in values.items()}, declared.get(str(name)))
            for call in possible
            for name, values in call.items()
        )
    accepted = []
    for call in reference:
        function = _function(call)
        name = str(function["name"])
        values = {k: [v] for k, v in (function.get("arguments") or {}).items()}
        accepted.append(_accept(name, values, declared.get(name)))
    return tuple(accepted)


def _accept(
    name: str, values: Mapping[str, Sequence[Any]], tool: Mapping[str, Any] | None
) -> AcceptedCall:
    properties = declared_arguments(tool) if tool else {}
    defaults = {
        key: schema["default"]
        for key, schema in properties.items()
        if isinstance(schema, Mapping) and "default" in schema
    }
    optional = {k for k, accepted in values.items() if "" in accepted and len(accepted) > 1}
    optional |= {
        k for k in values.keys() & defaults.keys() if any(_equal(defaults[k], v) for v in values[k])
    }
    return AcceptedCall(name, values, frozenset(optional), defaults)


def match_calls(calls: Sequence[ToolCall], accepted: Sequence[AcceptedCall]) -> str | None:
    """Compare calls with those expected, in any order.

    Args:
        calls: What the model called.
        accepted: What it should have called; none where it should have answered in words.

    Returns:
        None where they match one to one; else the class of the first mistake: ``no_call``,
        ``unexpected_call`` (none was expected), ``wrong_name``, ``missing_argument``,
        ``extra_argument``, ``wrong_value``, ``missing_call`` or ``extra_call``.
    """
    if not accepted:
        return "unexpected_call" if calls else None
    if not calls:
        return "no_call"
    mistakes = [[_find_mistake(call, wanted) for call in calls] for wanted in accepted]
    partner: dict[int, int] = {}
    unmatched = [i for i in range(len(accepted)) if not _assign(i, mistakes, partner, set())]
    free = [j for j in range(len(calls)) if j not in partner]
    if not unmatched:
        return "extra_call" if free else None
    if not free:
        return "missing_call"
    # The nearest miss says most: a call of the right name tells what is wrong inside of it.
    found = [mistakes[unmatched[0]][j] or "wrong_value" for j in free]
    return next((mistake for mistake in found if mistake != "wrong_name"), "wrong_name")


def _assign(
    wanted: int, mistakes: list[list[str | None]], partner: dict[int, int], tried: set[int]
) -> bool:
    """Find a call for ``wanted``, moving earlier ones where that helps (Kuhn's matching)."""
    for call, mistake in enumerate(mistakes[wanted]):
        if mistake is None and call not in tried:
            tried.add(call)
            if call not in partner or _assign(partner[call], mistakes, partner, tried):
                partner[call] = wanted
                return True
    return False


def _find_mistake(call: ToolCall, wanted: AcceptedCall) -> str | None:
    if call.name != wanted.name:
        return "wrong_name"
    if wanted.arguments.keys() - wanted.optional - call.arguments.keys():
        return "missing_argument"
    defaults = wanted.ignored or {}
    for key, value in call.arguments.items():
        if key in wanted.arguments:
            if not any(_equal(value, accepted) for accepted in wanted.arguments[key]):
                return "wrong_value"
        elif key not in defaults:
            return "extra_argument"
        elif not _equal(value, defaults[key]):
            return "wrong_value"
    return None


def _equal(value: Any, accepted: Any) -> bool:
    """Equality of values: 5 is 5.0, spaces and capitals of texts do not count, true is not 1.

    Inside a dictionary, a list of accepted values may stand for a value, as BFCL writes it.
    """
    if isinstance(value, bool) or isinstance(accepted, bool):
        return value is accepted
    if isinstance(value, str) and isinstance(accepted, str):
        return " ".join(value.split()).casefold() == " ".join(accepted.split()).casefold()
    if isinstance(value, list | tuple) and isinstance(accepted, list | tuple):
        return len(value) == len(accepted) and all(map(_equal, value, accepted))
    if isinstance(value, Mapping) and isinstance(accepted, Mapping):
        if value.keys() != accepted.keys():
            return False
        return all(_equal(value[k], a) or _is_among(value[k], a) for k, a in accepted.items())
    return bool(value == accepted)


def _is_among(value: Any, accepted: Any) -> bool:
    choices = accepted if isinstance(accepted, list) and not isinstance(value, list) else ()
    return any(_equal(value, choice) for choice in choices)
