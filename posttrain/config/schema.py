"""JSON Schema of a recipe, for editors, with the fields' documentation in it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

from pydantic import BaseModel

from posttrain.config.load import models_of
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
    for model in _all_models(Recipe):
        place = schema if model is Recipe else schema["$defs"][model.__name__]
        for name, text in _field_documentation(model).items():
            place["properties"][name]["description"] = text
    # With an include, a file by itself may leave out what the other one says.
    del schema["required"]
    return schema


def _all_models(root: type[BaseModel]) -> list[type[BaseModel]]:
    found = [root]
    for model in found:
        for info in model.model_fields.values():
            found.extend(m for m in models_of(info) if m not in found)
    return found


def _field_documentation(model: type[BaseModel]) -> dict[str, str]:
    """The string under each field of a class, read from its source.

    Pydantic can do this at class creation; it would cost every start of the program 0.1 s.
    """
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
