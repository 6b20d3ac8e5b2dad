"""Fields of the installed transformers.TrainingArguments that a recipe may set as they are.

They are read from the source of the class: importing it would import torch.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import AfterValidator, TypeAdapter, ValidationError

from posttrain.config.base import KeyMistakesError
from posttrain.config.migrate import find_new_name

_TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "dict": dict[str, Any],
    "list": list[Any],
    "None": None,
}


@cache
def list_fields() -> dict[str, Any]:
    """Name -> type of every field of the installed class; ``Any`` for a class of its own.

    A choice from a list, as transformers has them, is text here.
    """
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "training_args.py").read_text(encoding="utf-8")
    classes = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
    (body,) = [node.body for node in classes if node.name == "TrainingArguments"]
    return {
        line.target.id: read_type(line.annotation)
        for line in body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and not line.target.id.startswith("_")
    }


def read_type(annotation: ast.expr) -> Any:
    """Make a type of an annotation's source; ``Any`` where it names none of the plain ones."""
    names = _names_in(annotation)
    known = tuple(_TYPES[name] for name in names if name in _TYPES)
    return Union[known] if known and set(known) != {None} else Any  # noqa: UP007 - made at run time


def _names_in(annotation: ast.expr) -> list[str]:
    """Names of the members of a union, without what stands in their brackets."""
    if isinstance(annotation, ast.BinOp):
        return [*_names_in(annotation.left), *_names_in(annotation.right)]
    if isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str):
            return _names_in(ast.parse(annotation.value, mode="eval").body)
        return ["None"]
    if isinstance(annotation, ast.Subscript):
        (outer,) = _names_in(annotation.value)
        inner = annotation.slice
        if outer == "Optional":
            return [*_names_in(inner), "None"]
        if outer == "Union" and isinstance(inner, ast.Tuple):
            return [name for part in inner.elts for name in _names_in(part)]
        return [outer.lower()]
    return [ast.unparse(annotation).rpartition(".")[2]]


def is_passed_on(name: str) -> bool:
    """Whether a recipe may set a field as it is."""
    return name in list_fields() and find_new_name(name) is None


def _check(values: dict[str, Any]) -> dict[str, Any]:
    """Check names and types against the installed class.

    Raises:
        KeyMistakesError: Says of each field what it is here, why it has no place, or what it
            takes.
    """
    mistakes, checked = {}, {}
    for name, value in values.items():
        try:
            checked[name] = _check_field(name, value)
        except ValidationError as error:
            mistakes[name] = f"{error.errors()[0]['msg']} (given: {value!r})"
        except ValueError as error:
            mistakes[name] = str(error)
    if mistakes:
        raise KeyMistakesError(mistakes)
    return checked


def _check_field(name: str, value: Any) -> Any:
    if reason := find_new_name(name):
        raise ValueError(f"not set here; {reason}")
    fields = list_fields()
    if name not in fields:
        near = difflib.get_close_matches(name, filter(is_passed_on, fields), n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else "see its documentation"
        raise ValueError(f"the installed transformers.TrainingArguments has no such field; {hint}")
    adapter: TypeAdapter[Any] = TypeAdapter(fields[name])
    if isinstance(value, bool) and "bool" not in str(fields[name]):
        raise ValueError(f"is no switch; it cannot be {str(value).lower()}")
    return adapter.validate_python(value)


TrainingArgs = Annotated[dict[str, Any], AfterValidator(_check)]
"""Fields of transformers' TrainingArguments by their own names."""
