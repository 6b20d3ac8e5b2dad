"""YAML files with includes -> plain values that remember the file and line of each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from posttrain.config.base import Located
from posttrain.config.classes import expand_shorthands
from posttrain.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_TEXT = "tag:yaml.org,2002:str"
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?$")
Key = tuple[str | int, ...]


class YamlLoader(yaml.SafeLoader):
    """YAML whose ``8:1:1`` is text, not a number of base 60."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name and kind
        first: [(_TEXT, _BASE_60), *known]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass
class Document:
    """Plain values of a recipe and the place each came from."""

    values: dict[str, Any]
    origins: dict[Key, str] = field(default_factory=dict)

    def find_origin(self, key: Key) -> str:
        """Place of ``key``, or of the nearest key around it; empty where there is none."""
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key[:-1]
        return ""


def load_document(path: Path, including: tuple[Path, ...], root: type[BaseModel]) -> Document:
    """Read a YAML file and what it includes through ``base:``.

    Args:
        path: The file.
        including: Files that include this one.
        root: Class that describes it; its shorthands are written out.

    Raises:
        ConfigError: It cannot be read, or includes itself.
    """
    path = path.resolve()
    if path in including:
        raise ConfigError(f"{path}: includes itself through `base:`", hint="break the circle")
    what = getattr(root, "called", "recipe")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the {what}: {error.strerror}", hint="check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text (byte {error.start})", hint=f"save the {what} as UTF-8"
        ) from error
    try:
        node = yaml.compose(text, Loader=YamlLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}: not valid YAML: {problem}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: a {what} is a mapping of keys to values")
    document = Document({})
    try:
        values = _construct(node, (), path, document.origins)
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML: an alias holds itself") from None
    document.values = expand_shorthands(values, [root])
    base = document.values.pop("base", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise ConfigError(f"{document.find_origin(('base',))}: `base` is one file name")
    below = load_document(path.parent / base, (*including, path), root)
    return merge_documents(below, document)


def _construct(node: yaml.Node, key: Key, path: Path, origins: dict[Key, str]) -> Any:
    """Turn a YAML node into plain values, noting the line of each."""
    where = f"{path}:{node.start_mark.line + 1}"
    origins.setdefault(key, where)
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = str(key_node.value)
            line = f"{path}:{key_node.start_mark.line + 1}"
            if name in values:
                raise ConfigError(f"{line}: `{name}` is written twice", hint="keep one of them")
            origins[(*key, name)] = line
            values[name] = _construct(value_node, (*key, name), path, origins)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_construct(n, (*key, i), path, origins) for i, n in enumerate(node.value)]
    try:
        value = yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}: cannot read this value: {problem}") from error
    if isinstance(value, str):
        return Located(_expand_variables(value, where), path.parent)
    return value


def _expand_variables(text: str, where: str) -> str:
    """Replace ``${VAR}`` and ``${VAR:-default}`` by the environment's values."""

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        value = os.environ.get(name) or default
        if value is None:
            state = "empty" if name in os.environ else "not set"
            raise ConfigError(
                f"{where}: the environment variable {name} is {state}",
                hint=f"set it, or write ${{{name}:-default}}",
            )
        return value

    return _VARIABLE.sub(replace, text)


def merge_documents(below: Document, above: Document) -> Document:
    """Lay one document over another: mappings merge key by key, anything else is replaced."""

    def lay(low: Any, high: Any, key: Key) -> Any:
        if isinstance(low, dict) and isinstance(high, dict):
            merged = dict(low)
            for name, value in high.items():
                merged[name] = lay(low[name], value, (*key, name)) if name in low else value
            return merged
        replaced = [k for k in origins if k[: len(key)] == key and k not in above.origins]
        for stale in replaced:
            del origins[stale]
        return high

    origins = {**below.origins, **above.origins}
    return Document(lay(below.values, above.values, ()), origins)
