"""What the classes of settings say about themselves: tags, classes inside, shorthands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from posttrain.config.base import Config


def find_tag(model: type[BaseModel]) -> tuple[str, str | None]:
    """Key and value by which a member of a union is told, such as ``stage: sft``."""
    for name in ("stage", "kind"):
        found = model.model_fields.get(name)
        values = get_args(found.annotation) if found else ()
        if values and (name == "stage" or len(values) == 1):
            return name, str(values[0])
    return "", None


def models_of(info: FieldInfo) -> list[type[BaseModel]]:
    """Every model class named anywhere in a field's type."""
    found: list[type[BaseModel]] = []
    queue: list[Any] = [info.annotation]
    while queue:
        item = queue.pop(0)
        if isinstance(item, type) and issubclass(item, BaseModel):
            found.append(item)
        queue.extend(get_args(item))
    return found


def models_at(
    models: Sequence[type[BaseModel]], values: dict[str, Any], name: str
) -> list[type[BaseModel]]:
    """Every class that may stand at a key.

    Args:
        models: Classes that may describe the mapping around it.
        values: That mapping; its tag, such as ``stage``, tells which of the classes does.
        name: The key.
    """
    tagged = []
    for model in models:
        field, tag = find_tag(model)
        if tag is not None and values.get(field) == tag:
            tagged.append(model)
    holders = [model for model in tagged or models if name in model.model_fields]
    return [found for holder in holders for found in models_of(holder.model_fields[name])]


def read_shorthand(value: Any, models: Sequence[type[BaseModel]]) -> dict[str, Any] | None:
    """Return the keys that a value stands for; None where it is no shorthand of any class."""
    return _read_shorthand(value, models)[0]


def _read_shorthand(
    value: Any, models: Sequence[type[BaseModel]]
) -> tuple[dict[str, Any] | None, bool]:
    """What a value stands for, and whether it is a shorthand at all, be it a wrong one."""
    wrong = False
    for model in models:
        try:
            whole = model.read_shorthand(value) if issubclass(model, Config) else None
        except ValueError:  # told, with its place, when the settings are checked
            wrong = True
            continue
        if whole is not None:
            return whole, True
    return None, wrong


def expand_shorthands(value: Any, models: Sequence[type[BaseModel]]) -> Any:
    """Replace every shorthand by the keys that it stands for, so that others can be laid beside.

    Args:
        value: Nested plain values.
        models: Classes that may describe them.
    """
    whole, is_shorthand = _read_shorthand(value, models)
    if is_shorthand:
        return value if whole is None else whole
    if isinstance(value, list):
        return [expand_shorthands(item, models) for item in value]
    if isinstance(value, dict):
        return {
            name: expand_shorthands(item, models_at(models, value, name))
            for name, item in value.items()
        }
    return value
