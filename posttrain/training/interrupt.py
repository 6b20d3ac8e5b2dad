"""Ctrl-C and SIGTERM ask a run to save and stop; asked twice, Ctrl-C stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from posttrain.logs import say


class StopRequest:
    """Set by a signal, looked at after every step."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM inside the block into a request."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request:
            raise KeyboardInterrupt
        request.signal_name = signal.Signals(number).name
        # A signal may come while a line is being written; a second write inside it is refused.
        with contextlib.suppress(RuntimeError):
            say(f"{request.signal_name}: saving after this step (Ctrl-C again stops at once)")

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
