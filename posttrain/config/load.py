"""YAML file + includes + ``key=value`` overrides -> a checked recipe, or one line per mistake.

Every value remembers its file and line, so that a mistake is reported where it was written.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from posttrain.config.base import KeyMistakesError, Located, find_inside
from posttrain.config.classes import (
    expand_shorthands,
    find_tag,
    models_at,
    models_of,
    read_shorthand,
)
from posttrain.config.documents import Document, Key, YamlLoader, load_document
from posttrain.config.migrate import find_new_name
from posttrain.config.recipe import Recipe
from posttrain.config.tasks import expand_tasks
from posttrain.errors import ConfigError

_Root = TypeVar("_Root", bound=BaseModel)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and check a recipe.

    Args:
        path: YAML file. ``base: other.yaml`` at its top includes another file below it.
        overrides: ``key.subkey=value`` strings; values are YAML. A stage is reached by its name or
            position: ``stages.sft.steps=100``, ``stages.1.steps=100``.

    Returns:
        The recipe, with absolute paths.

    Raises:
        ConfigError: Any mistake, with file, line, key and what to do.
    """
    document = load_document(path, (), Recipe)
    return _validate(_apply_overrides(document, overrides, Recipe), str(path), Recipe)


def build_recipe(values: dict[str, Any], overrides: Sequence[str], source: str) -> Recipe:
    """Check a recipe made in code, as the commands do that take a data file or a model.

    Args:
        values: Nested plain values; paths absolute.
        overrides: As in ``load_recipe``.
        source: What to call it in messages.

    Raises:
        ConfigError: As ``load_recipe``.
    """
    document = Document(copy.deepcopy(values))
    return _validate(_apply_overrides(document, overrides, Recipe), source, Recipe)


def build_settings(root: type[_Root], values: dict[str, Any], overrides: Sequence[str]) -> _Root:
    """Check the settings of a command that takes no recipe, such as ``chat`` or ``merge``.

    Args:
        root: Class of the settings.
        values: What the command's arguments say, as typed; relative paths are ones of the current
            folder.
        overrides: ``key=value`` strings.

    Raises:
        ConfigError: As ``load_recipe``.
    """
    document = _apply_overrides(Document(_locate(values)), overrides, root)
    return _validate(document, "command line", root)


def load_settings(root: type[_Root], path: Path, overrides: Sequence[str]) -> _Root:
    """Read a YAML file of settings that is no recipe, such as a sweep.

    Args:
        root: Class of the settings.
        path: YAML file; ``base:`` includes another one.
        overrides: ``key=value`` strings.

    Raises:
        ConfigError: As ``load_recipe``.
    """
    document = load_document(path, (), root)
    return _validate(_apply_overrides(document, overrides, root), str(path), root)


def _apply_overrides(
    document: Document, overrides: Sequence[str], root: type[BaseModel]
) -> Document:
    for text in overrides:
        name, equals, value = text.partition("=")
        place = f"command line `{text}`"
        if not equals or not name:
            raise ConfigError(f"{place}: not of the form key=value", hint="write key.subkey=value")
        try:
            parsed = YamlLoader(value).get_single_data() if value else ""
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"{place}: the value is not valid YAML") from error
        key = _set_value(document.values, [root], name.split("."), _locate(parsed), place)
        document.origins = {k: v for k, v in document.origins.items() if k[: len(key)] != key}
        document.origins[key] = place
    return document


def _locate(value: Any) -> Any:
    """Make paths in an override relative to the current folder."""
    if isinstance(value, str):
        return Located(value, Path.cwd())
    if isinstance(value, list):
        return [_locate(item) for item in value]
    if isinstance(value, dict):
        return {name: _locate(item) for name, item in value.items()}
    return value


def _set_value(
    values: Any, models: list[type[BaseModel]], names: list[str], value: Any, place: str
) -> Key:
    """Set a nested value in place and return its key; list items go by position or by name.

    A shorthand for a mapping sets the keys that it stands for, and leaves the others.
    """
    key: list[str | int] = []
    for position, name in enumerate(names):
        last = position == len(names) - 1
        if isinstance(values, list):
            index = _find_item(values, name, place)
            key.append(index)
            if last:
                values[index] = expand_shorthands(value, models)
            values = values[index]
        elif isinstance(values, dict):
            key.append(name)
            models = models_at(models, values, name)
            whole = read_shorthand(value, models) if last else None
            if whole is not None and isinstance(values.get(name), dict):
                values[name] = _overlay(values[name], whole)
            elif last:
                values[name] = expand_shorthands(value, models)
            elif values.get(name) is None:
                values[name] = {}
            elif not isinstance(values[name], (dict, list)):
                held = ".".join(names[: position + 1])
                raise ConfigError(f"{place}: `{held}` is one value and has no keys below it")
            values = values[name]
    return tuple(key)


def _overlay(low: Any, high: Any) -> Any:
    """Lay plain values over others: mappings key by key, anything else replaced."""
    if not (isinstance(low, dict) and isinstance(high, dict)):
        return high
    return low | {name: _overlay(low.get(name), value) for name, value in high.items()}


def _find_item(items: list[Any], name: str, place: str) -> int:
    if name.isdigit() and int(name) < len(items):
        return int(name)
    for field_name in ("name", "stage", "task"):
        found = [
            index
            for index, item in enumerate(items)
            if isinstance(item, dict) and _shorten(item.get(field_name)) == name
        ]
        if len(found) > 1:
            raise ConfigError(
                f"{place}: {len(found)} items are `{field_name}: {name}`",
                hint=f"give their position: {', '.join(map(str, found))}",
            )
        if found:
            return found[0]
    known = [
        str(item.get("name") or item.get("stage") or _shorten(item.get("task")) or index)
        for index, item in enumerate(items)
        if isinstance(item, dict)
    ]
    raise ConfigError(f"{place}: no item `{name}`", hint=f"there are: {', '.join(known)}")


def _shorten(name: Any) -> Any:
    """Name of an item; of a task by its path, that of the file."""
    is_path = isinstance(name, str) and name.endswith((".yaml", ".yml"))
    return Path(name).stem if is_path else name


def _validate(document: Document, source: str, root: type[_Root]) -> _Root:
    expand_tasks(document, root)
    try:
        return root.model_validate(document.values)
    except ValidationError as error:
        # A list whose items failed is also reported as too short; the items' own lines suffice.
        problems = [
            part
            for problem in error.errors()
            for part in _take_apart(problem)
            if not (part["type"] == "too_short" and part["input"])
        ]
        lines = [_describe(problem, document, source, root) for problem in problems]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _take_apart(problem: Any) -> list[Any]:
    """Make one problem of each key of a mapping that is checked as a whole."""
    inner = problem.get("ctx", {}).get("error")
    if not isinstance(inner, KeyMistakesError):
        return [problem]
    return [
        {"type": "value_error", "loc": (*problem["loc"], key), "msg": text}
        for key, text in inner.messages.items()
    ]


def _describe(problem: Any, document: Document, source: str, root: type[BaseModel]) -> str:
    """One line for one pydantic error: place, key, what is wrong, nearest key."""
    key, model = _follow(problem["loc"], document.values, root)
    where = document.find_origin(key) or source
    name = ".".join(str(part) for part in key)
    kind, message = problem["type"], problem["msg"]
    if kind == "extra_forbidden":
        known = list(model.model_fields) if model else []
        meant = getattr(model, "meant_by", {}).get(str(key[-1]))
        near = [meant] if meant else find_inside(model, str(key[-1])) if model else []
        near += difflib.get_close_matches(str(key[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
        typed = where.startswith("command line")
        whole = root is Recipe and len(key) == 1 and not typed
        if moved := find_new_name(str(key[-1]), at_top=whole):
            hint = f"{moved} (`posttrain migrate OLD.yaml out=NEW.yaml` rewrites the whole file)"
        return f"{where}: unknown key `{name}`; {hint}"
    if kind == "missing":
        return f"{where}: `{name}` is missing"
    if kind == "union_tag_not_found":
        tags = problem["ctx"]["discriminator"].strip("'")
        return f"{where}: `{name}` needs the key `{tags}`"
    if kind == "union_tag_invalid":
        tag = problem["ctx"]["discriminator"].strip("'")
        where = document.find_origin((*key, tag)) or where
        return (
            f"{where}: `{name}.{tag}: {problem['ctx']['tag']}` is no {tag}; "
            f"known: {problem['ctx']['expected_tags']}"
        )
    if kind == "too_short" and problem["ctx"]["min_length"] == 1:
        message = "is empty; give at least one"
    message = message.removeprefix("Value error, ").replace("a valid tuple", "a list")
    message = message.replace("a valid dictionary", "a mapping, {key: value}")
    message = message.partition(" or instance of ")[0]
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool)) else ""
    label = f"`{name}`: " if name else ""
    if kind == "literal_error" and isinstance(given, str):
        words = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        near = [word for word in words if given.startswith(word)]  # `adamw_torch` is `adamw`
        near += difflib.get_close_matches(given, words, n=1, cutoff=0.5)
        shown += f"; did you mean `{near[0]}`?" if near else ""
    return f"{where}: {label}{message}{shown}"


def _follow(
    loc: Sequence[str | int], values: Any, root: type[BaseModel]
) -> tuple[Key, type[BaseModel] | None]:
    """Translate a pydantic location to our key, and find the model class that holds its last part.

    Pydantic puts names of union members into the location; they are no keys of the file.
    """
    key: list[str | int] = []
    holder: type[BaseModel] | None = root
    inside: list[type[BaseModel]] = [root]
    for part in loc:
        if isinstance(part, int):
            values = values[part] if isinstance(values, list) and part < len(values) else None
            key.append(part)
            continue
        tagged = [m for m in inside if find_tag(m)[1] == part]
        if tagged and len(inside) > 1:
            inside = tagged
            continue
        holder = next((m for m in inside if part in m.model_fields), inside[0] if inside else None)
        known = holder.model_fields.get(part) if holder else None
        if known is None and not (isinstance(values, dict) and part in values):
            continue
        key.append(part)
        values = values.get(part) if isinstance(values, dict) else None
        inside = models_of(known) if known else []
    return tuple(key), holder
