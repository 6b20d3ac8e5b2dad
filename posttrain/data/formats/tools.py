"""Tool declarations of other notations -> OpenAI's, with JSON Schema; and a check of the calls."""

from __future__ import annotations

import marshal
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from posttrain.data.formats.fields import TOO_DEEP, check_json, parse_json
from posttrain.data.records import Message, RowError

Schema = dict[str, Any]

# Names of types in Python, Java and the leaderboards' own notation.
_TYPES = {
    "string": "str string text char",
    "integer": "int integer long short byte",
    "number": "float double number decimal",
    "boolean": "bool boolean",
    "array": "list array tuple set sequence iterable arraylist",
    "object": "dict object map mapping hashmap",
    "null": "none null",
}
_JSON_TYPE = {name: kind for kind, names in _TYPES.items() for name in names.split()}
_ANYTHING = ("any", "")
_REMEMBERED = 512
_DEEPEST = 64
_LONGEST_TYPE = 200  # Characters of a type's name; what is longer is prose.
_GENERIC = re.compile(r"(?:typing\.)?(\w+)\[(.*)\]", re.DOTALL)


def read_declared(value: Any) -> tuple[dict[str, Any], ...]:
    """Read functions that mostly are declared as OpenAI does; those stay as they stand.

    Args:
        value: A list or its JSON text; where one of them is declared otherwise, as ``read_tools``.

    Raises:
        RowError: As ``read_tools``.
    """
    if isinstance(value, str):
        return _read_declared_text(value) if value.strip() else ()
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RowError("`tools` is not a list of objects")
    try:
        # The fastest way to a key of a nested value; version 2 writes equal values alike.
        key = marshal.dumps(value, 2)
    except ValueError:
        check_json(value, "tools")
        raise RowError(TOO_DEEP, "tools") from None
    if key in _SEEN:
        return _SEEN[key]
    check_json(value, "tools")
    tools = tuple(value) if all(map(_is_declared, value)) else read_tools(value)
    if len(_SEEN) >= _REMEMBERED:
        _SEEN.clear()
    _SEEN[key] = tools
    return tools


# Rows of one data set mostly declare the same functions in the same words.
_SEEN: dict[bytes, tuple[dict[str, Any], ...]] = {}


@lru_cache(maxsize=_REMEMBERED)
def _read_declared_text(text: str) -> tuple[dict[str, Any], ...]:
    return read_declared(parse_json(text, "tools"))


def _is_declared(tool: dict[str, Any]) -> bool:
    function = tool.get("function")
    return (
        tool.get("type") == "function"
        and isinstance(function, dict)
        and isinstance(function.get("name"), str)
        and (not function.get("parameters") or _is_object(function["parameters"]))
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "object" and _is_schema(value)


def _is_schema(value: Any, depth: int = 0) -> bool:
    """Whether all types inside a schema are JSON Schema's."""
    if not isinstance(value, dict) or depth > _DEEPEST:
        return isinstance(value, bool)
    kind = value.get("type")
    if kind is not None and not (isinstance(kind, str) and kind in _TYPES):
        if not isinstance(kind, list):
            return False
        if not all(isinstance(item, str) and item in _TYPES for item in kind):
            return False
    properties, items = value.get("properties"), value.get("items")
    if properties is not None and not isinstance(properties, dict):
        return False
    for inner in (properties or {}).values():
        if not _is_schema(inner, depth + 1):
            return False
    return items is None or _is_schema(items, depth + 1)


def read_tools(value: Any) -> tuple[dict[str, Any], ...]:
    """Read declared functions.

    Args:
        value: A list or its JSON text; items are bare or wrapped in ``{type, function}``. Their
            parameters are JSON Schema, that with BFCL's type names, or xLAM's
            ``{name: {type, description, default}}``. Nothing, or empty text, is no functions.

    Returns:
        Wrapped declarations with JSON Schema, equal ones once.

    Raises:
        RowError: It cannot be read, or two different functions share a name.
    """
    if isinstance(value, str):
        return _read_text(value) if value.strip() else ()
    if value is None:
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RowError("`tools` is not a list of objects")
    check_json(value, "tools")
    return merge_tools(_wrap(item) for item in value)


@lru_cache(maxsize=_REMEMBERED)
def _read_text(text: str) -> tuple[dict[str, Any], ...]:
    return read_tools(parse_json(text, "tools"))


def merge_tools(tools: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Put declarations together; equal ones stay once.

    Raises:
        RowError: Two different functions share a name.
    """
    merged: dict[str, dict[str, Any]] = {}
    for tool in tools:
        name = tool["function"]["name"]
        if merged.setdefault(name, tool) != tool:
            raise RowError("two different functions share a name", name)
    return tuple(merged.values())


def check_calls(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> None:
    """Check every call against the declarations.

    Raises:
        RowError: A call to an undeclared function, or without a required argument.
    """
    declared = {tool["function"]["name"]: tool["function"] for tool in tools}
    for turn, message in enumerate(messages, start=1):
        for call in message.get("tool_calls", ()):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            if name not in declared:
                raise RowError("a call to an undeclared function", f"turn {turn}: {name}")
            required = declared[name]["parameters"].get("required", ())
            if missing := [argument for argument in required if argument not in arguments]:
                detail = f"turn {turn}: {name} needs `{missing[0]}`"
                raise RowError("a required argument is missing", detail)


def _wrap(item: dict[str, Any]) -> dict[str, Any]:
    function = item.get("function", item)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("a declared function has no name")
    schema = _read_parameters(function.get("parameters"), function["name"])
    return {"type": "function", "function": {**function, "parameters": schema}}


def _read_parameters(value: Any, name: str) -> Schema:
    if not value:
        return {"type": "object", "properties": {}}
    if not isinstance(value, dict):
        raise RowError("the parameters of a declared function cannot be read", name)
    kind = value.get("type")
    # xLAM's notation may have a parameter that is called `type`; its value is an object then.
    named = isinstance(kind, str) and _JSON_TYPE.get(kind.lower()) == "object"
    if not named and not (isinstance(value.get("properties"), dict) and kind is None):
        return _read_properties({"type": "object", "properties": value})
    return _read_schema({**value, "type": "object", "properties": value.get("properties") or {}})


def _read_properties(schema: Schema) -> Schema:
    """Read xLAM's parameters: what is not ``optional`` and has no default is required."""
    required = []
    for name, value in schema["properties"].items():
        _, optional = _read_type(value.get("type", "")) if isinstance(value, dict) else ({}, True)
        stated = value.get("required") if isinstance(value, dict) else None
        if stated is True or (stated is None and not optional and "default" not in value):
            required.append(name)
    return _read_schema({**schema, **({"required": required} if required else {})})


def _read_schema(value: Any) -> Schema:
    """Read one schema and all inside it; what is no schema is a description."""
    if not isinstance(value, dict):
        return {"description": str(value)} if value else {}
    kind, _ = _read_type(value.get("type", ""))
    schema = {k: v for k, v in value.items() if k not in ("type", "required")} | kind
    if "x-type" in schema:
        unknown = schema.pop("x-type")
        schema["description"] = f"{schema.get('description') or ''} (type: {unknown})".strip()
    required = value.get("required")
    listed = required if isinstance(required, list) else ()
    needed = [name for name in listed if isinstance(name, str)]
    if isinstance(properties := value.get("properties"), dict):
        schema["properties"] = {name: _read_schema(item) for name, item in properties.items()}
        needed += [
            name
            for name, item in properties.items()
            if isinstance(item, dict) and item.get("required") is True and name not in needed
        ]
    if needed:
        schema["required"] = needed
    for name in ("items", "additionalProperties"):
        if isinstance(value.get(name), dict):
            schema[name] = _read_schema(value[name])
    for name in ("anyOf", "oneOf", "allOf"):
        if isinstance(value.get(name), list):
            schema[name] = [_read_schema(item) for item in value[name]]
    # `type` first, as people write it.
    return {**({"type": schema["type"]} if "type" in schema else {}), **schema}


def _read_type(value: Any) -> tuple[Schema, bool]:
    """Read a type's name.

    Returns:
        What it is in JSON Schema, ``x-type`` where that has no such type; and whether the value
        may be left out.
    """
    if isinstance(value, list):
        kinds = [_read_type(item)[0].get("type") for item in value]
        return ({"type": kinds}, False) if all(isinstance(k, str) for k in kinds) else ({}, False)
    if not isinstance(value, str):
        return {}, False
    if len(value) > _LONGEST_TYPE:
        return {"x-type": value}, False
    text, *notes = _split_type(value, ",")
    optional = any("optional" in note.lower() for note in notes)
    if len(parts := _split_type(text, "|")) > 1:
        return _unite(parts, optional=optional)
    if found := _GENERIC.fullmatch(text):
        outer, inner = found[1].lower(), _split_type(found[2], ",")
        if outer == "optional":
            return _read_type(found[2])[0], True
        if outer == "union":
            return _unite(inner, optional=optional)
        items = [_read_type(item)[0] for item in inner]
        if _JSON_TYPE.get(outer) == "array" and items[0] and all(i == items[0] for i in items):
            return {"type": "array", "items": items[0]}, optional
        text = outer
    word = text.lower()
    if word in _ANYTHING:
        return {}, optional
    return ({"type": _JSON_TYPE[word]} if word in _JSON_TYPE else {"x-type": value}), optional


def _unite(parts: Sequence[str], *, optional: bool) -> tuple[Schema, bool]:
    kinds = [_read_type(part)[0] for part in parts]
    present = [kind for kind in kinds if kind != {"type": "null"}]
    if len(present) == 1:
        return present[0], optional or len(present) < len(kinds)
    return {"anyOf": kinds}, optional


def _split_type(text: str, separator: str) -> list[str]:
    """Cut at separators outside of brackets."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "[") - (sign == "]")
        if sign == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]
