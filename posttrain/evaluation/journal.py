"""Records that are kept as they come, so that a killed evaluation goes on where it was.

``records.jsonl`` is appended to while an evaluation runs, and written anew in the order of the
problems at its end. ``identity.json`` beside it says what the records are of; those of another
model, other problems, prompts or settings of writing are never gone on with; where settings of
grading are others, the kept answers are graded anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from posttrain.config.evaluation import GRADING
from posttrain.errors import DataError
from posttrain.files import (
    digest_json,
    dump_line,
    load_json,
    move_aside,
    write_errors,
    write_json,
    write_jsonl,
)
from posttrain.logs import say

RECORDS = "records.jsonl"
IDENTITY = "identity.json"
_FLUSH_SECONDS = 0.2
"""A record waits at most so long for others that go to the disk with it."""
# What changes how fast answers come, or how they are counted, and none of them.
_WITHOUT_EFFECT = {"name", "task", "data", "batch_size", "batch_tokens", "groups", "cluster"}


def identify(task: Any, prompts: Any, model: Any) -> dict[str, Any]:
    """Say what records are of.

    Args:
        task: Its settings.
        prompts: All that the model is given, and what it is graded against, like JSON.
        model: What tells the model from another, with the number format.

    Returns:
        Part -> its digest; the settings in full.
    """
    return {
        "model": digest_json(model),
        "prompts": digest_json(prompts),
        "settings": list_settings(task),
    }


def list_settings(task: Any) -> dict[str, Any]:
    """List the settings of a task that answers and verdicts depend on."""
    settings: dict[str, Any] = task.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
    return settings


class Journal:
    """Records of an evaluation that is under way.

    Args:
        path: Of the records.
        lines: What an earlier attempt has left.
        file: Opened for appending.
    """

    def __init__(self, path: Path, lines: Sequence[Mapping[str, Any]], file: BinaryIO) -> None:
        self.lines = list(lines)
        self._path = path
        self._file = file
        self._waiting: list[bytes] = []
        self._newest = time.monotonic()

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a record; those that come fast go to the disk together."""
        self._waiting.append(dump_line(line).encode() + b"\n")
        if time.monotonic() - self._newest >= _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Return when all records are on the disk."""
        with write_errors(self._path):
            self._file.write(b"".join(self._waiting))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._waiting.clear()
        self._newest = time.monotonic()


@contextlib.contextmanager
def open_journal(
    folder: Path,
    identity: Mapping[str, Any],
    grade_again: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Iterator[Journal]:
    """Open the records of a task, and read what an earlier attempt has left.

    Args:
        folder: Of the task; made where it is absent. What it holds of something else is moved
            aside, and that is said.
        identity: From ``identify``.
        grade_again: Judges a record by the settings of now; called for each where only settings of
            grading are other than they were.

    Raises:
        DataError: The records are damaged in their middle.
    """
    path = folder / RECORDS
    if path.exists() and (other := _find_difference(folder, identity)):
        with write_errors(folder):
            aside = move_aside(folder)
        say(f"{folder}: holds answers of {other}; they are kept as {aside}")
    lines = _recover(path) if path.exists() else []
    if grade_again and lines and (keys := _find_other_grading(folder, identity)):
        say(f"{folder}: {', '.join(keys)} has changed: the answers are kept and graded anew")
        lines = [grade_again(line) for line in lines]
        write_jsonl(path, lines)
        write_json(folder / IDENTITY, identity)
    elif not lines:
        write_json(folder / IDENTITY, identity)
    with write_errors(path):
        opened = path.open("ab")
    with opened as file:
        journal = Journal(path, lines, file)
        try:
            yield journal
        finally:
            journal.flush()  # also what was done before an interruption


def tell_time(
    folder: Path, rate: str, amount: int, seconds: float, *, resumed: int
) -> dict[str, Any]:
    """Say what the measuring took: this attempt, or the earlier one that has done everything.

    Args:
        folder: Of the task.
        rate: What to call the amount per second.
        amount: What this attempt has done.
        seconds: In this time.
        resumed: Records that were there before.
    """
    if not amount and resumed and (folder / "results.json").is_file():
        earlier = load_json(folder / "results.json")
        names = ("seconds", rate, "resumed")
        return {name: earlier[name] for name in names if name in earlier}
    told = {"seconds": seconds, rate: amount / max(seconds, 1e-9)}
    return told | ({"resumed": resumed} if resumed else {})


def _find_difference(folder: Path, identity: Mapping[str, Any]) -> str:
    """Name what records are of that is not what is wanted; empty where all of it is."""
    if not (folder / IDENTITY).is_file():
        return "an unknown model"
    found = load_json(folder / IDENTITY)
    names = {"model": "another model", "prompts": "other problems or prompts"}
    for part, name in names.items():
        if found.get(part) != identity[part]:
            return name
    keys = [key for key in _find_other_settings(found, identity) if key not in GRADING]
    return f"other settings ({', '.join(keys)})" if keys else ""


def _find_other_grading(folder: Path, identity: Mapping[str, Any]) -> list[str]:
    found = load_json(folder / IDENTITY)
    return [key for key in _find_other_settings(found, identity) if key in GRADING]


def _find_other_settings(found: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    ours, theirs = identity["settings"], found.get("settings") or {}
    return [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]


def _recover(path: Path) -> list[dict[str, Any]]:
    """Read whole lines; what a killed process has half written is cut off."""
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    texts = whole.split(b"\n")[:-1]
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            if number < len(texts):
                raise DataError(
                    f"{path}:{number}: damaged record",
                    hint="move the folder away and evaluate again",
                ) from None
            whole = whole[: -len(text) - 1]
    if len(whole) < len(raw):
        with write_errors(path), path.open("r+b") as file:
            file.truncate(len(whole))
        say(f"{path}: the last record was half written and is done again")
    if lines:
        say(f"{path.parent.name}: going on behind {len(lines):,} records")
    return lines
