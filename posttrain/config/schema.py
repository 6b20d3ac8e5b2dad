"""JSON Schema of a recipe, for editors, with the fields' documentation in it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from posttrain.config.base import Config
from posttrain.config.classes import find_tag, models_of
from posttrain.config.evaluation import TASK_KINDS, EvaluateStage
from posttrain.config.recipe import Recipe


def build_schema() -> dict[str, Any]:
    """Build the JSON Schema of a recipe file.

    Returns:
        The schema; ``base`` (the include) is a key of the file, not of the recipe, and is added.
    """
    schema = Recipe.model_json_schema()
    schema["title"] = "posttrain recipe"
    schema["properties"]["base"] = {
        "type": "string",
        "description": "Another recipe file whose keys apply where this one is silent.",
    }
    for model in all_models(Recipe):
        place = schema if model is Recipe else schema["$defs"][model.__name__]
        for name, text in _field_documentation(model).items():
            place["properties"][name]["description"] = text
        for name, info in model.model_fields.items():
            for short in _list_shorthands(info):
                shown = place["properties"][name]
                whole = shown.pop("anyOf", None) or [{"$ref": shown.pop("$ref")}]
                shown["anyOf"] = [*whole, short]
    _open_tasks(schema)
    # With an include, a file by itself may leave out what the other one says.
    del schema["required"]
    return schema


def _open_tasks(schema: dict[str, Any]) -> None:
    """Let a task be a name alone, and leave out what its file says."""
    tasks = schema["$defs"][EvaluateStage.__name__]["properties"]["tasks"]
    kinds = [{"$ref": f"#/$defs/{model.__name__}"} for model in TASK_KINDS.values()]
    tasks["items"] = {"anyOf": [{"type": "string"}, *kinds]}
    for model in TASK_KINDS.values():
        schema["$defs"][model.__name__].pop("required", None)


def _list_shorthands(info: FieldInfo) -> Iterator[dict[str, Any]]:
    """Yield the schemas of what may stand in place of the mapping that a field holds."""
    if get_origin(info.annotation) is not tuple:
        for model in models_of(info):
            if issubclass(model, Config):
                yield from model.shorthands


def all_models(root: type[BaseModel]) -> list[type[BaseModel]]:
    """Return a class of settings and every one inside it."""
    found = [root]
    for model in found:
        for info in model.model_fields.values():
            found.extend(m for m in models_of(info) if m not in found)
    return found


def _field_documentation(model: type[BaseModel]) -> dict[str, str]:
    """The string under each field of a class and of those it inherits from, read from the source.

    Pydantic can do this at class creation; it would cost every start of the program 0.1 s.
    """
    texts: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if part is not BaseModel and issubclass(part, BaseModel):
            texts.update(_own_documentation(part))
    return texts


def _own_documentation(model: type[BaseModel]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            texts[statement.target.id] = " ".join(str(below.value.value).split())
    return texts


def build_reference() -> str:
    """Build the settings reference, Markdown, one table per part of a recipe."""
    schema = build_schema()
    lines = [
        "# Settings",
        "",
        "Made by `make schema` from the recipe classes; every key here can also be given on the",
        "command line, as `key=value`: `stages.sft.steps=100` reaches the stage named `sft`.",
    ]
    for model in all_models(Recipe):
        part = schema if model is Recipe else schema["$defs"][model.__name__]
        summary = inspect.cleandoc(model.__doc__ or "").splitlines()[0]
        lines += ["", f"## {_part_title(model)}", "", summary, ""]
        lines += ["| key | values | default | meaning |", "|---|---|---|---|"]
        for name, info in model.model_fields.items():
            shown = part["properties"][name]
            default = "required" if info.is_required() else f"`{_show_default(info.default)}`"
            if info.default_factory is not None:
                default = "`{}`"
            cells = [f"`{name}`", _show_type(shown), default, shown.get("description", "")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _part_title(model: type[BaseModel]) -> str:
    name, tag = find_tag(model)
    return f"{name}: {tag}" if tag else model.__name__.removesuffix("Config")


def _show_default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _show_type(shown: dict[str, Any]) -> str:
    """Say in a few words what a field may hold."""
    if "anyOf" in shown:
        return " or ".join(_show_type(option) for option in shown["anyOf"])
    if "$ref" in shown:
        return str(shown["$ref"].rpartition("/")[2].removesuffix("Config"))
    if "const" in shown:
        return f"`{shown['const']}`"
    if "enum" in shown:
        return ", ".join(f"`{value}`" for value in shown["enum"])
    if shown.get("type") == "array":
        return f"list of {_show_type(shown.get('items', {}))}"
    bounds = [
        f"{sign} {shown[key]:g}"
        for key, sign in (
            ("exclusiveMinimum", ">"),
            ("minimum", "≥"),
            ("exclusiveMaximum", "<"),
            ("maximum", "≤"),
        )
        if key in shown
    ]
    kind = shown.get("type") or shown.get("discriminator", {}).get("propertyName", "stage")
    return " ".join([str(kind), ", ".join(bounds)]).strip()
