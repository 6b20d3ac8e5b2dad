"""Compare every file of a run, a checkpoint or a model with what was written."""

from __future__ import annotations

import os
import re
from pathlib import Path

from posttrain.checkpoints import MANIFEST, list_damage, load_manifest
from posttrain.errors import CheckpointError, VerificationError
from posttrain.logs import format_bytes, show
from posttrain.uploads import RECORD, list_missing

_ALWAYS_LISTED = re.compile(r"step-\d+|final")


def verify_folder(folder: Path) -> None:
    """Read every file that a manifest at or below a folder lists, and say what was found.

    Args:
        folder: A run, a stage, a checkpoint, a model, or any folder that holds such.

    Raises:
        CheckpointError: There is no manifest.
        VerificationError: A file has changed, or is gone.
    """
    if not folder.exists():
        raise CheckpointError(f"{folder} does not exist", hint="look at the folders below runs/")
    places = _find_places(folder)
    if not places:
        raise CheckpointError(
            f"{folder}: no {MANIFEST} found here", hint="give a run, a checkpoint or a model"
        )
    damages: list[str] = []
    for place in places:
        found = list(list_damage(place))
        damages += [f"{place}: {damage}" for damage in found]
        if not found:
            show(f"{place}: {_describe(place)}")
    for link in _find_broken_links(folder):
        damages.append(f"{link}: points to {link.readlink()}, which is not there")
    for record in sorted(folder.rglob(RECORD)):
        url, missing = list_missing(record.parent) or ("", {})
        for name, reason in missing.items():
            show(f"{record.parent.parent / name}: not at {url}: {reason}")
    for damage in damages[1:]:  # the first one is in the message
        show(damage)
    if damages:
        more = f" (and {len(damages) - 1} more, above)" if len(damages) > 1 else ""
        raise VerificationError(
            f"{damages[0]}{more}",
            hint="run the recipe again: it goes on from the newest intact checkpoint",
        )


def _find_places(folder: Path) -> list[Path]:
    """Folders with a manifest, and those of a run that should have one."""
    found = []
    for place, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]  # not yet published
        path = Path(place)
        if MANIFEST in (*files, *names) or _is_part_of_run(path):
            found.append(path)
            names.clear()
    return sorted(found)


def _is_part_of_run(path: Path) -> bool:
    stage = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    listed = _ALWAYS_LISTED.fullmatch(path.name) is not None
    return listed and (stage / "started.json").is_file()


def _find_broken_links(folder: Path) -> list[Path]:
    links = (p for p in folder.rglob("*") if p.is_symlink() and p.parent.name == "checkpoints")
    return sorted(link for link in links if not link.exists())


def _describe(place: Path) -> str:
    manifest = load_manifest(place)
    sizes = [file["size_bytes"] for file in manifest["files"].values()]
    step = f"step {manifest['step']}, " if "step" in manifest else ""
    return f"{step}{len(sizes)} files, {format_bytes(sum(sizes))}, all as written"
