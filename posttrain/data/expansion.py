"""The files of a source: one, those of a folder or a pattern, or those a registry names."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from posttrain.config.data import SourceConfig, TaskData
from posttrain.data.readers import ROW_ENDINGS, TEXT_ENDINGS, check_file, find_ending
from posttrain.data.registry import REGISTRY, find_registry, read_entries
from posttrain.errors import DataError
from posttrain.logs import say

# What stands beside rows and holds none.
_NO_ROWS = {REGISTRY, "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
FINDINGS = ".rejects.jsonl"
"""How the names of our own findings end; they are rows of nothing, and read only where named."""
_ABOUT = ("readme", "license", "licence", "source", "changelog", "notice")
_said: set[str] = set()


def expand_source(source: SourceConfig) -> list[SourceConfig]:
    """Find the files of a source.

    Args:
        source: With its ``path`` settled: a file, a folder, a pattern, or a ``dataset_info.json``.

    Returns:
        A source for each file, in the order of their names; of a registry's entry, with the format
        and the names that the registry states. What a folder holds besides rows is said once.

    Raises:
        DataError: There is no such file, or nothing that holds rows.
    """
    if source.path is None:
        return [source]
    if isinstance(source, TaskData) and source.get and not _is_there(source.path):
        raise DataError(f"{source.path}: no such file or folder", hint=f"get it: {source.get}")
    if registry := find_registry(source):
        entries = read_entries(source, registry)
        return [file for entry in entries for file in expand_source(entry)]
    if source.path.is_dir():
        found = _list_folder(source.path)
        if isinstance(source, TaskData) and source.split:
            found = _choose_split(source.path, found, source.split)
    elif glob.has_magic(str(source.path)) and not source.path.exists():
        found = [path for path in find_paths(source.path) if path.is_file()]
        if not found:
            raise DataError(f"{source.path}: no file has such a name", hint="check the pattern")
    else:
        return [source]
    files = _choose_files(source.path, found)
    return [source.model_copy(update={"path": path}) for path in files]


def find_paths(pattern: Path) -> list[Path]:
    """Find what a name stands for: itself, or all that it matches as a pattern, in order."""
    # `Path.glob` takes no absolute pattern.
    return sorted(map(Path, glob.glob(str(pattern), recursive=True)))  # noqa: PTH207


def check_source(source: SourceConfig) -> list[SourceConfig]:
    """Find the files of a source and look whether they can be read, without reading them.

    Raises:
        DataError: One is missing or may not be read.
        MissingExtraError: One needs a package that is not installed.
    """
    files = expand_source(source)
    for file in files:
        if file.path is not None:
            check_file(file.path)
    return files


def _list_folder(folder: Path) -> list[Path]:
    """Return all files below a folder, in the order of their names; none that is hidden."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in names if not name.startswith(".")]
    return sorted((path for path in found if path.is_file()), key=lambda p: p.parts)


def _is_there(path: Path) -> bool:
    return path.exists() or (glob.has_magic(str(path)) and bool(find_paths(path)))


def _choose_split(place: Path, found: Sequence[Path], split: str) -> list[Path]:
    """Take the files of a split: ``test.jsonl``, ``test-00000-of-00001.parquet``, ``test/``."""
    of_split = re.compile(rf"{re.escape(split)}(?![A-Za-z0-9])")
    chosen = [p for p in found if any(map(of_split.match, p.relative_to(place).parts))]
    if not chosen:
        raise DataError(
            f"{place}: no file of the split `{split}` in it",
            hint=f"looked for names such as {split}.jsonl and {split}-00000-of-00001.parquet",
        )
    return chosen


def _choose_files(place: Path, found: Sequence[Path]) -> list[Path]:
    """Take what holds rows; plain text only where nothing else does, and without a README."""
    rows = [
        path
        for path in found
        if find_ending(path) in ROW_ENDINGS
        and path.name not in _NO_ROWS
        and not path.name.endswith(FINDINGS)
    ]
    texts = [
        path
        for path in found
        if find_ending(path) in TEXT_ENDINGS and not path.name.lower().startswith(_ABOUT)
    ]
    chosen = rows or texts
    if not chosen:
        raise DataError(
            f"{place}: no file of rows in it",
            hint=f"looked for {' '.join((*ROW_ENDINGS, *TEXT_ENDINGS))}, also as .gz or .zst; "
            f"*{FINDINGS} are findings, read only where a path names the file",
        )
    left = [str(path.relative_to(place) if place.is_dir() else path) for path in found]
    left = [name for name, path in zip(left, found, strict=True) if path not in set(chosen)]
    line = f"data: {place}: {len(chosen):,} files"
    if left:
        line += f"; left out: {', '.join(left[:5])}{', ...' if len(left) > 5 else ''}"
    if line not in _said:
        _said.add(line)
        say(line)
    return chosen
