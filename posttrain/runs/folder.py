"""A run's folder: which stages are done, by which settings, and where their outputs are."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config.recipe import Recipe, Stage
from posttrain.errors import PosttrainError
from posttrain.files import load_json, move_aside, remove_leftovers, write_errors, write_json
from posttrain.logs import say

POLL_SECONDS = 0.3
"""Between looks at a file that another process is to write."""


def run_folder(recipe: Recipe) -> Path:
    """Folder of a recipe's run."""
    root = recipe.output or Path(os.environ.get("POSTTRAIN_RUNS") or "runs").resolve()
    return root / recipe.name


class Patience:
    """Waits for a file of the leading process, and says once for which one it has waited long.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun: float | None = time.monotonic()

    def wait(self) -> None:
        """Wait a moment."""
        time.sleep(POLL_SECONDS)
        if self._begun and time.monotonic() - self._begun > _LONG_SECONDS:
            # Not through `say`: this process has been muted, and what it waits for may never come.
            sys.stderr.write(
                f"a following process waits for {self._path}; all nodes must share this folder\n"
            )
            self._begun = None


_LONG_SECONDS = 120.0


@dataclass(frozen=True)
class StageFolder:
    """One stage's folder and the settings it belongs to."""

    path: Path
    digest: str
    """Of everything that the stage's result depends on."""

    def load_finished(self) -> dict[str, Any] | None:
        """Read ``stage.json`` where the stage was finished with these very settings."""
        found = _load_marker(self.path / "stage.json")
        return found if found and found.get("digest") == self.digest else None

    def wait_started(self) -> None:
        """Wait until the leading process has claimed the folder for these settings."""
        patience = Patience(self.path / "started.json")
        while (_load_marker(self.path / "started.json") or {}).get("digest") != self.digest:
            patience.wait()

    def wait_finished(self) -> dict[str, Any]:
        """Wait until the leading process has finished the stage; return ``stage.json``."""
        patience = Patience(self.path / "stage.json")
        while (done := self.load_finished()) is None:
            patience.wait()
        return done

    def begin(self) -> bool:
        """Claim the folder; another result that lies there is moved aside, never lost.

        Returns:
            Whether an unfinished attempt with the same settings can be gone on with.
        """
        started = _load_marker(self.path / "started.json")
        if started and started.get("digest") == self.digest:
            with write_errors(self.path):
                (self.path / "stage.json").unlink(missing_ok=True)
                remove_leftovers(self.path)
            return True
        with write_errors(self.path):
            if aside := move_aside(self.path):
                say(f"settings or inputs have changed: the older result is kept as {aside}")
            self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "started.json", {"digest": self.digest})
        return False

    def finish(
        self, stage: Stage, started: float, result: dict[str, Any], *, earlier_seconds: float = 0.0
    ) -> dict[str, Any]:
        """Write ``stage.json``, which makes the stage count as done.

        Args:
            stage: Its settings.
            started: ``time.time()`` at its start.
            result: What else to store: summary, outputs, peak memory.
            earlier_seconds: What interrupted attempts took.

        Returns:
            What was written.
        """
        marker = {
            "stage": stage.stage,
            "name": stage.name,
            "digest": self.digest,
            # config.json may be of a later command by now.
            "settings": stage.model_dump(mode="json"),
            "seconds": time.time() - started + earlier_seconds,
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **result,
        }
        write_json(self.path / "stage.json", marker)
        return marker


def _load_marker(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        marker: dict[str, Any] = load_json(path)
    except (ValueError, OSError) as error:
        raise PosttrainError(
            f"{path}: cannot be read: {error}", hint="delete the stage's folder to run it again"
        ) from error
    return marker
