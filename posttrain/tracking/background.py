"""Services beside ``metrics.jsonl``, each in a thread of its own, none able to stop a run."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from posttrain.logs import say

START_SECONDS = 60
FINISH_SECONDS = 50  # of a service's own end; closing waits a little longer


class Tracker(Protocol):
    """Somebody who is told of every line of metrics, and must never stop the training."""

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Take one line."""

    def close(self, *, failed: bool = False) -> None:
        """Finish within a bounded time, and note whether training has failed."""


class Service(Protocol):
    """A started run of a service."""

    def log(self, values: dict[str, float], step: int) -> Any:
        """Take one line."""

    def finish(self, *, failed: bool) -> Any:
        """Send what is left, and say how it ended."""


class BackgroundTracker:
    """A service in a thread of its own: where it fails or hangs, one line says so.

    Args:
        name: Of the service, for people.
        start: Starts it; called in the thread.
        wait_seconds: How long closing waits for what is still to be sent; a minute where absent.
    """

    _MOST_WAITING = 10_000

    def __init__(
        self, name: str, start: Callable[[], Service], *, wait_seconds: float | None = None
    ) -> None:
        self._name, self._start = name, start
        self._wait_seconds = FINISH_SECONDS + 10 if wait_seconds is None else wait_seconds
        self._lines: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(
            self._MOST_WAITING
        )
        self._given_up = self._failed = False
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Hand a line to the thread; never waits."""
        self._put((step, dict(values)))

    def close(self, *, failed: bool = False) -> None:
        """Let the thread finish, for a bounded time."""
        self._failed = failed
        self._put(None)
        if not self._given_up:
            self._thread.join(self._wait_seconds)
            if self._thread.is_alive():
                self._give_up(f"did not finish within {self._wait_seconds:.0f} s")

    def _put(self, line: tuple[int, dict[str, float]] | None) -> None:
        if self._given_up:
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._give_up(f"has not answered for {self._MOST_WAITING:,} lines")

    def _work(self) -> None:
        try:
            service = self._start()
            while (line := self._lines.get()) is not None:
                if self._given_up:
                    return
                step, values = line
                service.log(values, step=step)
            service.finish(failed=self._failed)
        except (Exception, SystemExit) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._give_up(first)

    def _give_up(self, reason: str) -> None:
        if not self._given_up:
            self._given_up = True
            say(f"warning: {self._name}: {reason}; training goes on without it (metrics.jsonl)")
