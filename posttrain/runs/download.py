"""Copy a model or data set from a hub: resumable, checked, whole or absent."""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from posttrain.config.download import DownloadConfig
from posttrain.errors import CheckpointError, ConfigError, PosttrainError, VerificationError
from posttrain.files import digest_file, load_json, sync_folder, write_errors, write_json
from posttrain.logs import format_bytes, say
from posttrain.runs.hubs import HUBS, Listing, RemoteFile, explain_lookup

SOURCE_NAME = "SOURCE.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
_OTHER_FRAMEWORKS = ("*.h5", "*.msgpack", "*.ot", "*.tflite", "*.onnx", "*.onnx_data")
_IDENTITY = {"name", "hub", "kind", "revision", "files", "pickles"}
_WEIGHTS = ("*.safetensors", "*.gguf")


def download(config: DownloadConfig) -> Path:
    """Fetch a model or data set; a broken download goes on where it was.

    Args:
        config: What, from where, whereto.

    Returns:
        The folder, with ``SOURCE.json``: name, commit, and the sha256 of each file.

    Raises:
        CheckpointError: The hub cannot be reached or has no such thing, or only pickles.
        ConfigError: The folder holds something else.
        VerificationError: What has arrived is not what the hub describes.
        MissingExtraError: ModelScope's package is not installed.
    """
    hub = HUBS[config.hub]
    if (known := _find_finished(config)) is not None:
        say(f"{config.out}: already there, all {known} files are as they were downloaded")
        return config.out
    hub.check_reachable(config)
    try:
        listing = hub.list_files(config)
    except PosttrainError:
        raise
    except Exception as error:  # the clients' errors share no base class
        raise explain_lookup(config, error) from error
    wanted = choose_files(config, listing.files)
    total = sum(file.size_bytes for file in wanted)
    say(
        f"{config.name} at {listing.commit[:12]}: {len(wanted)} of {len(listing.files)} files, "
        f"{format_bytes(total)}"
    )
    partial = config.out.with_name(f".{config.out.name}.download")
    with write_errors(config.out, "out=DIR"):
        partial.mkdir(parents=True, exist_ok=True)
        _check_space(config.out, partial, total)
    try:
        hub.fetch(config, listing.commit, [file.path for file in wanted], partial)
    except Exception as error:  # as above
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{config.name}: broken off: {reason}",
            hint="run the same command again; what has arrived is kept",
        ) from error
    _publish(config, listing, wanted, partial)
    say(f"{config.out}: {len(wanted)} files, {format_bytes(total)}, every one checked")
    return config.out


def choose_files(config: DownloadConfig, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Choose what is worth fetching: no pickles, no copies for other frameworks.

    Args:
        config: Its ``files`` and ``pickles`` decide.
        files: All that there are.

    Raises:
        CheckpointError: Nothing fits, or a model has weights only as pickles.
    """
    for file in files:
        parts = PurePosixPath(file.path).parts
        if not parts or ".." in parts or file.path.startswith(("/", "\\")) or ":" in parts[0]:
            raise CheckpointError(
                f"{config.name}: the hub names a file {file.path!r}, outside of it"
            )
    skipped: tuple[str, ...] = () if config.pickles else _PICKLES
    if config.kind == "dataset":
        skipped = tuple(pattern for pattern in skipped if pattern != "*.bin")
    if config.files:
        wanted = [f for f in files if _fits(f.path, config.files) and not _fits(f.path, skipped)]
    else:
        others = _OTHER_FRAMEWORKS if config.kind == "model" else ()
        wanted = [f for f in files if not _fits(f.path, (*skipped, *others))]
    pickled = [file.path for file in files if _fits(file.path, _PICKLES)]
    found = any(_fits(file.path, _WEIGHTS) for file in wanted)
    if config.kind == "model" and not (config.files or config.pickles) and pickled and not found:
        raise CheckpointError(
            f"{config.name}: has weights only as pickles ({pickled[0]}), which can run code",
            hint="choose a copy with safetensors; pickles=true fetches them, but they are not "
            "loaded here",
        )
    if not wanted:
        names = ", ".join(file.path for file in files[:5]) or "none"
        raise CheckpointError(f"{config.name}: no file fits", hint=f"there are: {names}")
    return wanted


def _fits(path: str, patterns: Sequence[str]) -> bool:
    name = PurePosixPath(path).name
    return any(fnmatch.fnmatch(path, p) or fnmatch.fnmatch(name, p) for p in patterns)


def _find_finished(config: DownloadConfig) -> int | None:
    """Count the files of an earlier download of the same thing, after checking each of them."""
    if not config.out.exists() or not any(config.out.iterdir()):
        return None
    path = config.out / SOURCE_NAME
    source: dict[str, Any] = load_json(path) if path.is_file() else {}
    wanted = config.model_dump(mode="json", include=_IDENTITY)
    if {key: source.get(key) for key in wanted} != wanted:
        held = ", ".join(f"{key} {source[key]}" for key in wanted if source.get(key))
        held = held or "something else"
        raise ConfigError(
            f"{config.out}: is not empty and holds {held}", hint="choose another folder with out="
        )
    for file in source["contents"]:
        place = config.out / file["path"]
        if not place.is_file() or digest_file(place) != file["sha256"]:
            raise VerificationError(
                f"{place}: is not as it was downloaded",
                hint=f"delete {config.out} to download it again",
            )
    return len(source["contents"])


def _check_space(out: Path, partial: Path, total_bytes: int) -> None:
    there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    free = shutil.disk_usage(partial).free
    if total_bytes - there > free:
        raise PosttrainError(
            f"{out}: needs {format_bytes(total_bytes - there)} more, {format_bytes(free)} are free",
            hint="free the space or choose another place with out=",
        )


def _publish(
    config: DownloadConfig, listing: Listing, wanted: Sequence[RemoteFile], partial: Path
) -> None:
    """Check every file, note where all comes from, and give the folder its name."""
    checked = []
    for file in wanted:
        place = partial / file.path
        digest = digest_file(place) if place.is_file() else ""
        if not digest or not _is_whole(place, file, digest):
            place.unlink(missing_ok=True)
            raise VerificationError(
                f"{config.name}: {file.path} has not arrived as the hub describes it",
                hint="run the same command again; the other files are kept",
            )
        checked.append({"path": file.path, "size_bytes": file.size_bytes, "sha256": digest})
    source = config.model_dump(mode="json", include=_IDENTITY)
    with write_errors(config.out, "out=DIR"):
        for name in (".cache", "._____temp", ".msc", ".mv", ".mdl"):  # the clients' own notes
            path = partial / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write_json(partial / SOURCE_NAME, {**source, "commit": listing.commit, "contents": checked})
        sync_folder(partial)
        if config.out.exists():
            config.out.rmdir()
        partial.rename(config.out)


def _is_whole(place: Path, file: RemoteFile, digest: str) -> bool:
    size = place.stat().st_size
    if size != file.size_bytes:
        return False
    if file.sha256:
        return digest == file.sha256
    if file.git_sha1:
        blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        blob.update(place.read_bytes())
        return blob.hexdigest() == file.git_sha1
    return True
