"""Facts of a run as plain tables: its environment, its lineage, its files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.logs import format_bytes, format_duration

Pairs = list[tuple[str, str]]
_MOST_FILES = 300
_LABELS = {
    "python": "Python",
    "platform": "Operating system",
    "cores": "CPU cores",
    "memory_bytes": "Memory",
    "compute device": "Device",
    "compute precision": "Precision",
    "compute threads": "CPU threads used",
    "compute reason": "Chosen because",
}


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Turn nested facts into pairs of a readable name and text, in their order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{name} {key}".strip())
    elif value is not None:
        yield _label(name), _write(name, value)


def _label(name: str) -> str:
    known = _LABELS.get(name)
    if known or name.startswith("packages "):
        return known or name.removeprefix("packages ")
    for unit in ("_bytes", "_seconds"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def _write(name: str, value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and name.endswith("_bytes"):
        return format_bytes(value)
    if number and name.endswith("seconds"):
        return format_duration(value)
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    # A seed or a year is a name, not an amount: no thousands apart.
    return str(value)


def list_files(run: Path, left_out: str) -> tuple[Pairs, int]:
    """List the files of a run with their sizes.

    Args:
        run: The folder; links in it are shown, not followed.
        left_out: Name of a file at its top that is not listed: the report itself.

    Returns:
        The first 300 by name, and the number of those beyond.
    """
    found: Pairs = []
    for folder, folders, files in os.walk(run):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*files, *links]:
            path = Path(folder) / name
            shown = path.relative_to(run).as_posix()
            if not name.startswith(".") and shown != left_out:
                found.append((shown, _describe_file(path)))
    found.sort()
    return found[:_MOST_FILES], max(0, len(found) - _MOST_FILES)


def _describe_file(path: Path) -> str:
    try:
        if path.is_symlink():
            return f"→ {path.readlink()}"
        return format_bytes(path.stat().st_size)
    except FileNotFoundError:  # a run in progress renames its files
        return ""
