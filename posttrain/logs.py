"""What the user reads while a command runs: one stream of plain lines, copied to a log file.

``say`` is the only way to speak on standard error; results a script may want to read go to
standard output through ``show``. Both survive without a terminal and without colours.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from posttrain.errors import PosttrainError

_log_files: list[TextIO] = []
_muted = False


def mute() -> None:
    """Say and show nothing from here on: of several processes one speaks for all."""
    global _muted
    _muted = True


def say(line: str) -> None:
    """Print one line about progress or a decision to standard error and to every open log file."""
    if _muted:
        return
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
    _append(line)


def show(text: str) -> None:
    """Print a result to standard output and to every open log file."""
    if _muted:
        return
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    _append(text)


def _append(text: str) -> None:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    for file in list(_log_files):
        try:
            file.write("".join(f"{stamp} {line}\n" for line in text.splitlines() or [""]))
            file.flush()
        except OSError as error:
            # What is said is a copy; no run ends because its copy has no room.
            _log_files.remove(file)
            reason = error.strerror or str(error)
            say(f"warning: cannot write {file.name}: {reason}; what follows is not in it")


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Copy all that is said and shown inside the block to ``path``, appending, with time stamps.

    A file that can no longer be written is given up, with one line.

    Raises:
        PosttrainError: It cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise PosttrainError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free the space or choose another output=DIR",
        ) from error
    _log_files.append(file)
    try:
        yield
    finally:
        if file in _log_files:
            _log_files.remove(file)
        with contextlib.suppress(OSError):  # closing writes what could not be written before
            file.close()


_FEW = 32
"""Pieces before which a tenth must be done to tell how long the rest takes."""


class Progress:
    """Says how far long work is, how fast, and how long it still takes; at most every 5 seconds.

    Args:
        label: What is being done.
        total: Pieces of work; 0 where that is not known.
        unit: What a piece is, in the plural.
    """

    _PAUSE_SECONDS = 5.0

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._started = self._said = time.perf_counter()

    def update(self, done: int) -> None:
        """Tell how many pieces are done by now."""
        now = time.perf_counter()
        if done == 0 or now - self._said < self._PAUSE_SECONDS:
            return
        self._said = now
        rate = done / (now - self._started)
        speed = f"{rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s"
        if not self._total:
            say(f"{self._label}: {done:,} {self._unit}, {speed}")
            return
        left = ""
        # The first pieces of a batch are no measure of it: the others are under way meanwhile.
        if done >= min(_FEW, self._total / 10):
            left = f", {format_duration((self._total - done) / rate)} left"
        say(f"{self._label}: {done:,} of {self._total:,} {self._unit}, {speed}{left}")


def quiet_libraries() -> None:
    """Silence progress bars of transformers and the hub, and DeepSpeed's greeting on our output.

    Warnings still come through.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    greeting = "Setting accelerator to CPU"
    logging.getLogger("DeepSpeed").addFilter(lambda line: greeting not in line.getMessage())


def format_duration(seconds: float) -> str:
    """Write a duration the way people say it.

    Args:
        seconds: Duration, not negative.

    Returns:
        ``12 s``, ``3 min 05 s`` or ``2 h 07 min``.
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_bytes(size_bytes: float) -> str:
    """Write a size in the largest fitting unit of 1024, for example ``1.4 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024 or unit == "GiB":
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
