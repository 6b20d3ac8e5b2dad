"""Checkpoints that are whole or absent, with a manifest of sha256 sums.

The manifest is written last, inside a folder that appears by one rename. Resuming takes the newest
checkpoint whose every byte is as it was written.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError

from posttrain.errors import CheckpointError, PosttrainError
from posttrain.files import digest_file, load_json, publish_folder, replace_link, write_json

MANIFEST = "MANIFEST.json"
_NAME = re.compile(r"^step-(\d+)$")
_READERS = 4


def checkpoint_name(step: int) -> str:
    """Name of a step's folder."""
    return f"step-{step:06d}"


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
    target = root / checkpoint_name(step)
    with publish_folder(target) as building:
        yield building
        write_manifest(building, {"step": step, **details})
    replace_link(root / "last", target.name)


def write_manifest(folder: Path, details: dict[str, Any]) -> None:
    """List every file of a folder with size and sha256 in its MANIFEST.json."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST]
    files = {
        str(path.relative_to(folder)): {"size_bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, _digest_files(paths), strict=True)
    }
    write_json(folder / MANIFEST, {**details, "files": files})


def _digest_files(paths: list[Path]) -> list[str]:
    try:
        with ThreadPoolExecutor(_READERS) as readers:  # sha256 lets go of the interpreter
            return list(readers.map(digest_file, paths))
    except RuntimeError:  # no memory for another thread
        return [digest_file(path) for path in paths]


def find_damage(folder: Path, *, contents: bool = True) -> str | None:
    """Compare a folder with its manifest.

    Args:
        folder: With a manifest.
        contents: Whether to read every byte; else sizes are looked at.

    Returns:
        What is wrong with it in words, or None for an intact one.
    """
    return next(list_damage(folder, contents=contents), None)


def list_damage(folder: Path, *, contents: bool = True) -> Iterator[str]:
    """Yield what is wrong with a folder, file by file; see ``find_damage``."""
    try:
        if not os.path.lexists(folder / MANIFEST):
            yield f"no {MANIFEST}, so it was not written to its end"
            return
        if not (folder / MANIFEST).is_file():  # a pipe would never end
            yield f"{MANIFEST} is no file"
            return
        manifest = load_manifest(folder)
        files = [(n, f["size_bytes"], f["sha256"]) for n, f in manifest["files"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        yield f"{MANIFEST} cannot be read"
        return
    if not files:
        yield f"{MANIFEST} lists no files"
    step = _NAME.match(folder.resolve().name)
    if step and manifest.get("step") != int(step[1]):
        yield f"{MANIFEST} is of step {manifest.get('step')}"
    for name, size_bytes, sha256 in files:
        if damage := _compare_file(folder, name, size_bytes, sha256 if contents else None):
            yield damage


def _compare_file(folder: Path, name: str, size_bytes: Any, sha256: Any) -> str | None:
    """Say how a file differs from its entry; None where it does not."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return f"{MANIFEST} lists {name}, which is not in the folder"
    path = folder / name
    try:
        if not path.is_file():
            return f"{name} is missing" if not path.is_dir() else f"{name} is a folder"
        if path.stat().st_size != size_bytes:
            return f"{name} has {path.stat().st_size} bytes instead of {size_bytes}"
        if sha256 is not None and digest_file(path) != sha256:
            return f"{name} has changed since it was written"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None


def load_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest."""
    manifest: dict[str, Any] = load_json(folder / MANIFEST)
    return manifest


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
    """A line for each newer checkpoint that is damaged or of another run."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """What was stored with it."""


def find_checkpoint(root: Path, run: str = "") -> FoundCheckpoint:
    """Find the newest intact checkpoint of a run.

    Args:
        root: Folder of its checkpoints.
        run: What tells the run from others, as ``run`` in the details of ``write_checkpoint``.
    """
    skipped: list[str] = []
    for step, path in reversed(list_checkpoints(root)):
        damage = find_damage(path)
        if damage is None:
            manifest = load_manifest(path)
            if manifest.get("run", "") == run:
                return FoundCheckpoint(path, step, tuple(skipped), manifest)
            damage = "it was written with other data, another model or other settings"
        skipped.append(f"{path.name}: {damage}")
    return FoundCheckpoint(None, 0, tuple(skipped))


def list_checkpoints(root: Path) -> list[tuple[int, Path]]:
    """List a run's checkpoints as (step, folder), oldest first; damaged ones too."""
    if not root.is_dir():
        return []
    found = [(_NAME.match(path.name), path) for path in root.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def note_validation(folder: Path, values: dict[str, float]) -> None:
    """Store in a checkpoint's manifest what was measured after it was written.

    Args:
        folder: Of an intact checkpoint.
        values: Validation metrics by name.
    """
    write_json(folder / MANIFEST, {**load_manifest(folder), "validation": values})


@dataclass(frozen=True)
class Ranking:
    """By what one checkpoint is better than another."""

    metric: str
    """Of ``validation`` in the manifest."""
    higher_is_better: bool
    count: int = 1
    """How many of the best to keep."""

    def choose(self, checkpoints: list[tuple[int, Path]]) -> list[int]:
        """Steps of the best checkpoints, the best one first; of equal ones the earlier."""
        ranked = []
        for step, path in checkpoints:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                value = float(load_manifest(path)["validation"][self.metric])
                if not math.isnan(value):
                    ranked.append((-value if self.higher_is_better else value, step))
        return [step for _, step in sorted(ranked)[: self.count]]


def prune_checkpoints(
    root: Path,
    *,
    step: int,
    keep_last: int,
    ranking: Ranking | None = None,
    held: Collection[str] = (),
) -> str | None:
    """Delete old checkpoints, and what killed writers left behind; ``best`` points to the best.

    Nothing is deleted where the checkpoint just written is not on the disk as it was written.

    Args:
        root: Folder of a run's checkpoints.
        step: The one just written. Later ones are of an attempt that could not be gone on with;
            they must not count as the newest.
        keep_last: Newest ones to keep, at least 1.
        ranking: Says which are kept besides.
        held: Names of checkpoints that are still being read.

    Returns:
        What is wrong with the one just written, or None.
    """
    if damage := find_damage(root / checkpoint_name(step), contents=False):
        return damage
    found = [(number, path) for number, path in list_checkpoints(root) if number <= step]
    best = ranking.choose(found) if ranking else []
    kept = {*(number for number, _ in found[-keep_last:]), *best}
    for number, path in list_checkpoints(root):
        if number not in kept and path.name not in held:
            path.rename(root / f".{path.name}.pruned")  # at once, so that no half of it is found
    for leftover in root.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if best:
        replace_link(root / "best", checkpoint_name(best[0]))
    else:
        (root / "best").unlink(missing_ok=True)
    return None


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
