"""Files that are whole or absent: atomic writes, digests, JSON lines, locks.

Everything another process may read is written to a temporary name beside its place, flushed to
the disk, and renamed. A reader therefore never meets half a file.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from posttrain.errors import PosttrainError


@contextlib.contextmanager
def write_errors(
    path: Path, key: str = "output=DIR, or what the command calls it"
) -> Iterator[None]:
    """Turn a refused or failed write below ``path`` into one clear line.

    Args:
        path: What is written.
        key: What the command at hand calls the place.

    Raises:
        PosttrainError: The folder is read-only, the disk is full, or the like.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise PosttrainError(
            f"cannot write {path}: {reason}",
            hint=f"choose another place with {key} (of the cache: POSTTRAIN_CACHE) or free the "
            "space, then run again",
        ) from error


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Give a temporary file to write; it becomes ``path`` when the block ends well, or is gone.

    Args:
        path: Where the file shall appear; its folder is made.

    Yields:
        The temporary file, opened for bytes.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, making its folder."""
    with open_atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically. Paths become strings."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    if not _is_encodable(text):
        text = json.dumps(value, indent=2, default=str)
    write_text(path, text + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON document a line to ``path``, atomically."""
    with open_atomic(path) as file:
        file.writelines(dump_line(row).encode() + b"\n" for row in rows)


def dump_line(row: Any) -> str:
    """One JSON document as a line of text, without its line break."""
    text = json.dumps(row, ensure_ascii=False)
    # Half of a surrogate pair, as broken exports hold it, cannot be UTF-8; JSON can escape it.
    return text if _is_encodable(text) else json.dumps(row)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def load_json(path: Path) -> Any:
    """Read a JSON file that we wrote ourselves."""
    return json.loads(path.read_text(encoding="utf-8"))


def load_jsonl(path: Path) -> list[Any]:
    """Read a JSONL file that we wrote ourselves; an unfinished last line is left out."""
    # Not splitlines(): JSON strings may hold U+2028 and other characters it breaks at.
    *lines, _unfinished = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes ``path`` by one rename when the block ends well.

    An older folder of that name is replaced. If the block raises, nothing of it stays; what a
    killed writer has left is removed by the next one.

    Args:
        path: Where the folder shall appear. One process at a time writes there; the caller sees
            to that with a lock.

    Yields:
        The temporary folder, on the same file system.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            sync_folder(temporary)
            if path.exists():
                retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
                path.rename(retired / path.name)
                temporary.rename(path)
                shutil.rmtree(retired)
            else:
                temporary.rename(path)
            _sync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def move_aside(path: Path) -> Path | None:
    """Rename a folder that holds something, so that a new result can take its place.

    Returns:
        Its new name; None where there was nothing.
    """
    if not path.exists() or not any(path.iterdir()):
        return None
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def list_current(folder: Path, pattern: str) -> list[Path]:
    """List files below a folder, in order, without those in hidden folders or ones set aside.

    Args:
        folder: Its own name does not matter.
        pattern: As of ``glob``.
    """
    found = ((path, path.relative_to(folder).parts[:-1]) for path in sorted(folder.glob(pattern)))
    return [path for path, parts in found if not any(map(_ASIDE.search, parts))]


_ASIDE = re.compile(r"^\.|\.old-\d+$")


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left below ``folder``: temporary names start with a dot."""
    for path in folder.rglob(".*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush all that is below ``folder`` to the disk, and make it readable as umask says."""
    mask = _umask()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_symlink():
            continue
        if path.is_file():
            path.chmod(0o666 & ~mask)
            _sync(path)
        elif path.is_dir():
            path.chmod(0o777 & ~mask)
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def replace_link(link: Path, target: str) -> None:
    """Point the symbolic link ``link`` at ``target`` (a name beside it), atomically."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """sha256 of a JSON-like value, independent of key order and formatting, hexadecimal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str, allow_nan=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def cache_root() -> Path:
    """Folder for what can be made again: ``$POSTTRAIN_CACHE`` or ``~/.cache/posttrain``."""
    named = os.environ.get("POSTTRAIN_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "posttrain"
