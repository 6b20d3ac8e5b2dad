"""One thread that owns the model; requests take turns in it, token by token.

A request is a generator that does a little work between two values. A long one therefore holds up
nobody, and any of them is stopped between two tokens by not being asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from posttrain.serving.limits import ApiError

_CLIENT_GONE = 499  # not a standard status; nobody is there to see it


@dataclass(frozen=True)
class _End:
    """The last event of a job: it is done, or an error ended it."""

    error: Exception | None = None


class Job:
    """A request in the engine. Made by ``Engine.submit``, inside the event loop.

    Args:
        steps: Does the work.
        deadline: Time of the event loop at which it is given up.
        seconds: The same as a duration, for the error.
    """

    def __init__(self, steps: Iterator[Any], deadline: float, seconds: float) -> None:
        self.cancelled = False
        self._steps, self._deadline, self._seconds = steps, deadline, seconds
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    async def events(self) -> AsyncIterator[Any]:
        """What the steps yield, as it comes.

        Raises:
            ApiError: Of status 408 where the time is over, or as the steps raise it.
            Exception: Whatever else the steps raise.
        """
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    event = await self._events.get()
            except TimeoutError:
                self.cancelled = True
                raise ApiError(
                    408,
                    f"no answer within {self._seconds:g} s; ask for fewer tokens",
                    code="timeout",
                    # OpenAI's client would send it twice more, to no better end.
                    headers={"x-should-retry": "false"},
                ) from None
            if isinstance(event, _End):
                if event.error:
                    raise event.error
                return
            yield event

    def cancel(self) -> None:
        """Stop it before its next token, and end its events with an error."""
        self.cancelled = True
        self._tell(_End(ApiError(_CLIENT_GONE, "the client has closed the connection")))

    def step(self) -> bool:
        """Do the work up to the next value, in the engine's thread; False when it is over."""
        if self.cancelled:
            return False
        try:
            self._tell(next(self._steps))
        except StopIteration:
            self._tell(_End())
            return False
        except Exception as error:  # the request's own affair; the engine goes on
            self._tell(_End(error))
            return False
        return True

    def refuse(self, error: Exception) -> None:
        """End it with an error."""
        self._tell(_End(error))

    def _tell(self, event: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed; nobody listens
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Engine:
    """Runs jobs in a thread of its own.

    Args:
        max_running: Jobs that take turns.
        max_waiting: Jobs that may wait.
        timeout_seconds: From submission to the end of a job.
    """

    def __init__(self, *, max_running: int, max_waiting: int, timeout_seconds: float) -> None:
        self._max_running, self._max_waiting = max_running, max_waiting
        self._timeout_seconds = timeout_seconds
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End all jobs before their next token, and refuse new ones. May be called at any time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait for the thread's end."""
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""
        return self._thread.is_alive() and not self._stopping

    def submit(self, steps: Iterator[Any]) -> Job:
        """Add a job.

        Args:
            steps: Its work.

        Returns:
            The job, whose events can be read.

        Raises:
            ApiError: Status 429 where too many wait, 503 where the engine stops.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        job = Job(steps, deadline, self._timeout_seconds)
        with self._changed:
            if not self.alive:
                raise _stopping_error()
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
            busy = len(self._waiting) + sum(not job.cancelled for job in self._running)
            if busy >= self._max_waiting + self._max_running:
                raise ApiError(
                    429,
                    f"{busy} requests are being answered or wait; try again later",
                    code="queue_full",
                    headers={"Retry-After": "1"},
                )
            self._waiting.append(job)
            self._changed.notify()
        return job

    def _work(self) -> None:
        while self._take_jobs():
            for job in list(self._running):
                if self._stopping:
                    break
                if not job.step():
                    with self._changed:
                        self._running.remove(job)
        for job in [*self._running, *self._waiting]:
            job.refuse(_stopping_error())

    def _take_jobs(self) -> bool:
        """Wait until there is a job, and take as many as may run; False when it is time to stop."""
        with self._changed:
            while not (self._stopping or self._waiting or self._running):
                self._changed.wait()
            while self._waiting and len(self._running) < self._max_running:
                self._running.append(self._waiting.popleft())
            return not self._stopping


def _stopping_error() -> ApiError:
    return ApiError(503, "the server is stopping", code="stopping")
