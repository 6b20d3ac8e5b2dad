"""Finished checkpoints and models, copied elsewhere in the background through fsspec.

A folder's manifest is copied last, so a reader there never takes half of one. An upload that fails
or hangs costs a line, never the training.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection
from pathlib import Path

from posttrain.checkpoints import MANIFEST
from posttrain.errors import ConfigError, MissingExtraError
from posttrain.files import load_json, write_json
from posttrain.logs import say

RECORD = "uploads.json"
"""In a stage's folder: where its checkpoints went, and which did not."""
# What going on needs besides, and what tells how the run went.
_BESIDE = ("started.json", "memory.json", "metrics.jsonl", "rollbacks.json", "lineage.json")
_PAUSES_SECONDS = (1.0, 5.0, 25.0)  # between attempts


def check_upload(url: str) -> None:
    """Look whether the place can be written to at all, before anything is spent.

    Raises:
        MissingExtraError: The package for this kind of place is not installed.
        ConfigError: No such kind of place.
    """
    import fsspec
    from fsspec.registry import known_implementations

    protocol = fsspec.core.split_protocol(url)[0] or "file"
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        known = known_implementations[protocol]["class"].partition(".")[0]
        raise MissingExtraError(
            f"upload_to: {url}: {error}", hint=f"pip install {known}"
        ) from error
    except ValueError:
        raise ConfigError(
            f"upload_to: {url}: `{protocol}` is no kind of place that fsspec knows",
            hint="write a folder or a URL such as s3://bucket/folder",
        ) from None


class Uploader:
    """Copies folders in a thread of its own, one after the other.

    Args:
        url: Of the run's folder there.
        root: The run's folder here.
        stage: Folder of the stage, in it.
        pauses: Seconds between the attempts at a folder.
    """

    def __init__(
        self, url: str, root: Path, stage: Path, pauses: Collection[float] = _PAUSES_SECONDS
    ) -> None:
        self.url = url.rstrip("/")
        self._root, self._stage = root, stage
        self._pauses = tuple(pauses)
        self._change = threading.Condition()
        self._waiting: list[Path] = []
        self._current: Path | None = None
        self._closed = False
        self._uploaded, self._failed = self._load_record()
        threading.Thread(target=self._work, name="upload", daemon=True).start()

    @property
    def held(self) -> set[str]:
        """Names of the folders that must stay for now."""
        with self._change:
            paths = [*self._waiting, *([self._current] if self._current else [])]
            return {path.name for path in paths}

    def offer(self, folder: Path, *, besides: bool = False) -> None:
        """Ask for a whole folder to be copied; returns at once.

        Args:
            folder: With its manifest.
            besides: Copy those that wait already too; else this one takes their place.
        """
        with self._change:
            if not besides:
                self._waiting.clear()
            if folder not in self._waiting:
                self._waiting.append(folder)
            self._change.notify_all()

    def has(self, folder: Path) -> bool:
        """Whether a folder has been copied."""
        return self._name(folder) in self._uploaded

    def close(self, wait_seconds: float) -> None:
        """Copy what waits, for a bounded time, and say what was not copied.

        Args:
            wait_seconds: The most.
        """
        ends = time.monotonic() + wait_seconds
        with self._change:
            self._closed = True
            self._change.notify_all()
            count = len(self._waiting) + (self._current is not None)
            if count:
                say(f"upload: {count} folders still to be copied to {self.url}")
            while (self._waiting or self._current) and time.monotonic() < ends:
                self._change.wait(min(1.0, max(ends - time.monotonic(), 0.01)))
            late = [*([self._current] if self._current else []), *self._waiting]
            self._waiting.clear()
        for folder in late:
            self._note(folder, f"not done within {wait_seconds:.0f} s")

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._closed:
                    self._change.wait()
                if not self._waiting:
                    return
                self._current = self._waiting.pop(0)
            try:
                self._note(self._current, self._try(self._current))
            finally:
                with self._change:
                    self._current = None
                    self._change.notify_all()

    def _try(self, folder: Path) -> str | None:
        """Copy a folder, several times where that fails; return why it could not be, or None."""
        for pause in (*self._pauses, None):
            try:
                self._copy(folder)
            except Exception as error:  # whatever a service raises, the training goes on
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            else:
                return None
            if pause is None or not (folder / MANIFEST).is_file():
                break
            time.sleep(pause)
        return reason

    def _copy(self, folder: Path) -> None:
        import fsspec

        system, base = fsspec.core.url_to_fs(self.url)
        place = f"{base}/{self._name(folder)}"
        with contextlib.suppress(FileNotFoundError):
            if system.cat_file(f"{place}/{MANIFEST}") == (folder / MANIFEST).read_bytes():
                return
            system.rm_file(f"{place}/{MANIFEST}")
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p != folder / MANIFEST]
        stage = self._stage
        beside = [
            *(self._root / name for name in ("config.json", "environment.json")),
            *(stage / name for name in _BESIDE),
        ]
        files += [path for path in beside if path.is_file()]
        for path in (*files, folder / MANIFEST):
            target = f"{base}/{self._name(path)}"
            with contextlib.suppress(Exception):  # what has no folders needs none
                system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(path), target)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _note(self, folder: Path, failure: str | None) -> None:
        name = self._name(folder)
        with self._change:
            if failure is None:
                self._failed.pop(name, None)
                self._uploaded = [*(n for n in self._uploaded if n != name), name]
            else:
                self._failed[name] = failure
                say(f"warning: upload of {name} to {self.url}: {failure}")
            with contextlib.suppress(Exception):  # a full disk; the next one writes it
                record = {"url": self.url, "uploaded": self._uploaded, "failed": self._failed}
                write_json(self._stage / RECORD, record)

    def _load_record(self) -> tuple[list[str], dict[str, str]]:
        """What earlier attempts at the stage have copied to the same place."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = load_json(self._stage / RECORD)
            if record["url"] == self.url:
                return list(record["uploaded"]), dict(record["failed"])
        return [], {}


def list_missing(stage: Path) -> tuple[str, dict[str, str]] | None:
    """Tell which checkpoints and models of a stage have not been copied.

    Args:
        stage: Its folder.

    Returns:
        Where they should be, and the reason for each; None where nothing was to be copied.
    """
    try:
        record = load_json(stage / RECORD)
        uploaded, failed = set(record["uploaded"]), record["failed"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found = [*sorted(stage.glob("checkpoints/step-*")), *stage.glob("final")]
    names = [path.relative_to(stage.parent).as_posix() for path in found if path.is_dir()]
    missing = {n: failed.get(n, "not begun") for n in names if n not in uploaded}
    return str(record["url"]), missing
