"""Modules of a model by name: what settings such as ``lora.targets`` and ``freeze`` mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from posttrain.errors import ConfigError

_REGULAR = frozenset("^$()[]{}|\\+?")
_RANGE = re.compile(r"(\d+)-(\d+)")
_MOST_LAYERS = 10_000
_ROUTERS = ("gate", "router", "shared_expert_gate")


def to_regex(pattern: str, key: str) -> str:
    """Turn a pattern of a recipe into a regular expression for a module and all inside it.

    Args:
        pattern: A name or the end of one, in which ``*`` is any part and ``0-11`` any of these
            numbers; with characters such as ``(`` or ``|``, a regular expression.
        key: The setting it is from.

    Returns:
        What the whole name must match.

    Raises:
        ConfigError: It is none of them.
    """
    if _REGULAR & set(pattern):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{key}: `{pattern}` is no regular expression: {error}") from None
        return rf"(?:{pattern})(?:\..*)?"
    body = r"\.".join(_read_part(part, pattern, key) for part in pattern.split("."))
    return rf"(?:.*\.)?{body}(?:\..*)?"


def _read_part(part: str, pattern: str, key: str) -> str:
    if found := _RANGE.fullmatch(part):
        first, last = int(found[1]), int(found[2])
        if not first <= last < _MOST_LAYERS:
            raise ConfigError(f"{key}: `{pattern}` has no number from {first} to {last}")
        return f"(?:{'|'.join(map(str, range(first, last + 1)))})"
    return re.escape(part).replace(r"\*", r"[^.]*")


def find_names(patterns: Iterable[str], names: Sequence[str], model: Any, key: str) -> set[str]:
    """Find every name that one of the patterns means.

    Args:
        patterns: As in ``to_regex``.
        names: Of a model's modules or parameters that may be meant.
        model: Its modules are listed where a pattern means none.
        key: The setting they are from.

    Raises:
        ConfigError: A pattern means none of them.
    """
    found: set[str] = set()
    for pattern in patterns:
        regex = re.compile(to_regex(pattern, key))
        meant = {name for name in names if regex.fullmatch(name)}
        if not meant:
            raise ConfigError(
                f"{key}: `{pattern}` names nothing there is to choose",
                hint=f"modules of this model: {describe_modules(model)}",
            )
        found |= meant
    return found


def describe_modules(model: Any) -> str:
    """Name all modules with weights of their own, layers of a kind together."""
    numbers: dict[str, set[int]] = {}
    for name in _leaves(model):
        parts = re.split(r"(?<=\.)(\d+)(?=\.)", name, maxsplit=1)
        numbers.setdefault("*".join(parts[::2]), set()).update(map(int, parts[1:2]))
    shown = []
    for name, found in numbers.items():
        span = f"{min(found)}-{max(found)}" if len(found) > 1 else "".join(map(str, found))
        shown.append(name.replace("*", span, 1))
    return ", ".join(shown)


def _leaves(model: Any) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    ]


def find_stack(model: Any) -> str:
    """Name the list of a model's layers; empty where it has none."""
    import torch

    sizes = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
    }
    return max(sizes, key=sizes.__getitem__, default="")


def layer_of(name: str, stack: str) -> int | None:
    """Tell which layer a module is in, or None for one beside the layers."""
    number = name.removeprefix(f"{stack}.").partition(".")[0] if name.startswith(stack) else ""
    return int(number) if stack and number.isdigit() else None


def is_linear(module: Any) -> bool:
    """Whether a module is a matrix product, in whatever number format."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def is_router(name: str, module: Any) -> bool:
    """Whether a module chooses experts, by its own name or that of its class."""
    return name.rpartition(".")[2] in _ROUTERS or "Router" in type(module).__name__


def has_experts(model: Any) -> bool:
    """Whether a model's layers choose among experts."""
    return any(name.endswith(".experts") for name, _ in model.named_modules())
