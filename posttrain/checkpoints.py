"""Checkpoints that are whole or absent, with a manifest of sha256 sums.

The manifest is written last, inside a folder that appears by one rename. Resuming takes the newest
checkpoint whose every byte is as it was written.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from posttrain.errors import CheckpointError, PosttrainError
from posttrain.files import digest_file, load_json, publish_folder, replace_link, write_json

MANIFEST = "MANIFEST.json"
_NAME = re.compile(r"^step-(\d+)$")


@contextlib.contextmanager
def write_checkpoint(root: Path, step: int, details: dict[str, Any]) -> Iterator[Path]:
    """Give a folder to fill; it appears as ``step-000200`` with its manifest, or not at all.

    Args:
        root: Folder of a run's checkpoints.
        step: Optimizer steps done.
        details: Stored in the manifest, such as the world size.

    Yields:
        The folder to fill.

    Raises:
        PosttrainError: The disk is full or the folder cannot be written; older ones stay.
    """
    target = root / f"step-{step:06d}"
    with publish_folder(target) as building:
        yield building
        write_manifest(building, {"step": step, **details})
    replace_link(root / "last", target.name)


def write_manifest(folder: Path, details: dict[str, Any]) -> None:
    """List every file of a folder with size and sha256 in its MANIFEST.json."""
    files = {
        str(path.relative_to(folder)): {
            "size_bytes": path.stat().st_size,
            "sha256": digest_file(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(folder / MANIFEST, {**details, "files": files})


def find_damage(folder: Path) -> str | None:
    """Compare a folder with its manifest.

    Returns:
        What is wrong with it in words, or None for an intact one.
    """
    try:
        manifest = load_json(folder / MANIFEST)
        files = [(n, f["size_bytes"], f["sha256"]) for n, f in manifest["files"].items()]
    except FileNotFoundError:
        return "no MANIFEST.json, so it was not written to its end"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "MANIFEST.json cannot be read"
    if not files:
        return "MANIFEST.json lists no files"
    for name, size_bytes, sha256 in files:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size_bytes:
            return f"{name} has {path.stat().st_size} bytes instead of {size_bytes}"
        try:
            digest = digest_file(path)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if digest != sha256:
            return f"{name} has changed since it was written"
    return None


def check_intact(folder: Path, *, hint: str = "use another one") -> None:
    """Refuse a damaged folder.

    Args:
        folder: With a manifest.
        hint: What the user can do about a damaged one.

    Raises:
        CheckpointError: Says what is wrong with it.
    """
    if damage := find_damage(folder):
        raise CheckpointError(f"{folder}: {damage}", hint=hint)


@dataclass(frozen=True)
class FoundCheckpoint:
    """Where a run can go on, and what was passed over."""

    path: Path | None
    """None where no checkpoint is intact: the run starts at its beginning."""
    step: int
    """0 where there is no checkpoint."""
    skipped: tuple[str, ...]
    """A line for each newer checkpoint that is damaged."""


def find_checkpoint(root: Path) -> FoundCheckpoint:
    """Find the newest intact checkpoint of a run."""
    skipped: list[str] = []
    for step, path in reversed(list_checkpoints(root)):
        damage = find_damage(path)
        if damage is None:
            return FoundCheckpoint(path, step, tuple(skipped))
        skipped.append(f"{path.name}: {damage}")
    return FoundCheckpoint(None, 0, tuple(skipped))


def list_checkpoints(root: Path) -> list[tuple[int, Path]]:
    """List a run's checkpoints as (step, folder), oldest first; damaged ones too."""
    if not root.is_dir():
        return []
    found = [(_NAME.match(path.name), path) for path in root.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def prune_checkpoints(root: Path, *, step: int, keep_last: int, best_step: int | None) -> None:
    """Delete old checkpoints, and what killed writers left behind.

    Args:
        root: Folder of a run's checkpoints.
        step: The one just written. Later ones are of an attempt that could not be gone on with;
            they must not count as the newest.
        keep_last: Newest ones to keep, at least 1.
        best_step: This one is kept besides, and ``best`` points to it.
    """
    found = list_checkpoints(root)
    newest = [number for number, _ in found if number <= step][-keep_last:]
    for number, path in found:
        if number not in newest and number != best_step:
            shutil.rmtree(path)
    for leftover in root.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    best = root / f"step-{best_step:06d}" if best_step is not None else None
    if best and best.is_dir():
        replace_link(root / "best", best.name)
    else:
        (root / "best").unlink(missing_ok=True)


@contextlib.contextmanager
def save_errors(place: Path) -> Iterator[None]:
    """Turn what safetensors and torch raise on a full disk into one clear line.

    Raises:
        PosttrainError: Says what could not be written.
    """
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise PosttrainError(
            f"cannot write {place}: {reason}",
            hint="free the space, then run the same command again; older checkpoints are kept",
        ) from error
