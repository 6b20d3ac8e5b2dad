"""Settings of another tool as plain values, and the check of the place they go to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter

from posttrain.config.classes import models_of


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything nested; lists are values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def find_adapter(root: type[BaseModel], names: list[str]) -> TypeAdapter[Any] | None:
    """Build the check of a field of nested settings; None where there is no such field."""
    model = root
    for name in names[:-1]:
        inner = models_of(model.model_fields[name]) if name in model.model_fields else []
        if not inner:
            return None
        model = inner[0]
    info = model.model_fields.get(names[-1])
    if info is None:
        return None
    kind: Any = info.annotation
    return TypeAdapter(Annotated[(kind, *info.metadata)] if info.metadata else kind)


def make_plain(value: Any) -> Any:
    """Write numbers that YAML reads as text, such as 1e-5, as numbers."""
    if isinstance(value, str):
        try:
            return float(value) if not value.lstrip("-").isdigit() else int(value)
        except ValueError:
            return value
    return value
