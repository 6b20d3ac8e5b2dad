"""Signals ask a run to save and stop: Ctrl-C, SIGTERM, SIGUSR1 (of SLURM), and the run's own alarm.

Asked twice, Ctrl-C stops at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from posttrain.logs import say

_ALARM_NAME = "stop_after_minutes"


class AbandonedError(BaseException):
    """What is being done is given up because the run shall stop; nothing it did is kept."""


class StopRequest:
    """Set by a signal, looked at after every step."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._cutting = False

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def ask(self, name: str) -> None:
        """Ask the run to save and stop.

        Raises:
            AbandonedError: What is being done may be given up.
        """
        self.signal_name = name
        if self._cutting:
            raise AbandonedError

    def check(self) -> None:
        """Give up what is being done where the run shall stop.

        Raises:
            AbandonedError: It shall.
        """
        if self:
            raise AbandonedError

    @contextlib.contextmanager
    def cutting(self) -> Iterator[None]:
        """Give up what is done inside the block as soon as the run shall stop.

        Raises:
            AbandonedError: It shall.
        """
        self.check()
        self._cutting = True
        try:
            yield
        finally:
            self._cutting = False


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Turn the first signal inside the block into a request."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request:
            # A launcher passes Ctrl-C on as SIGTERM, and SLURM sends SIGTERM after SIGUSR1.
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        name = _ALARM_NAME if number == signal.SIGALRM else signal.Signals(number).name
        # A signal may come while a line is being written; a second write inside it is refused.
        with contextlib.suppress(RuntimeError):
            say(f"{name}: saving after this step (Ctrl-C again stops at once)")
        request.ask(name)

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)
    previous = {s: signal.signal(s, handle) for s in wanted}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
