"""The command in a process of its own, forked from one that has imported torch and all the rest.

What a test sees is what a new process would show: arguments, folder, environment, streams and exit
status are the process's own. Only the seconds that every start spends on imports are spent once.
"""

import atexit
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

PRELOADED = [
    "posttrain.cli.app",
    "posttrain.runs.finish",
    "posttrain.runs.kinds",
    "posttrain.runs.plan",
    "posttrain.runs.prepare",
    "posttrain.training.mlm",
    "posttrain.training.online",
    "posttrain.training.preference",
    "posttrain.training.reward",
    "posttrain.evaluation.tasks",
    "transformers.models.qwen3.modeling_qwen3",
]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def run_forked(
    arguments: list[str], *, folder: Path, environment: dict[str, str], stdin: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run ``posttrain`` with arguments; see ``subprocess.run`` for what comes back."""
    with tempfile.TemporaryDirectory() as place:
        forked = Forked(arguments, Path(place), folder=folder, environment=environment, stdin=stdin)
        return forked.wait(timeout)


class Forked:
    """``posttrain`` with arguments, begun.

    Args:
        arguments: Of the command line.
        place: Empty folder for its streams.
        folder: It works in.
        environment: All of it.
        stdin: What it can read.
        before: Called in the process before all else; a function of a module, or its ``partial``.
    """

    def __init__(
        self,
        arguments: list[str],
        place: Path,
        *,
        folder: Path,
        environment: dict[str, str],
        stdin: str = "",
        before: Callable[[], None] | None = None,
    ) -> None:
        self._arguments = arguments
        self._streams = [place / name for name in ("stdin", "stdout", "stderr")]
        self._streams[0].write_text(stdin)
        started = (arguments, folder, environment, self._streams, before)
        self._process = _context.Process(target=_start, args=started)
        _launch(self._process, environment)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    def end(self) -> None:
        """Kill it where it still runs."""
        with contextlib.suppress(ValueError):  # its end has been waited for
            self._process.kill()
            self._process.join()

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Wait until it has said something."""
        deadline = time.monotonic() + timeout
        while text not in _read(self._streams)[1]:
            assert self.is_alive(), f"it has ended and not said: {text}"
            assert time.monotonic() < deadline, f"it has not said: {text}"
            time.sleep(0.01)

    def wait(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Wait for its end; it is killed where that takes too long."""
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self._arguments, timeout, *_read(self._streams))
        code = self._process.exitcode
        self._process.close()
        return subprocess.CompletedProcess(self._arguments, code or 0, *_read(self._streams))


def _launch(process: multiprocessing.Process, environment: dict[str, str]) -> None:
    """Start the process; libraries read some variables when the first one imports them."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _read(streams: list[Path]) -> list[str]:
    return [path.read_text(errors="replace") if path.exists() else "" for path in streams[1:]]


def _start(
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    streams: list[Path],
    before: Callable[[], None] | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate(streams):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(path, flags), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.argv = ["-c", *arguments]
    os.setsid()
    if before:
        before()
    from posttrain.cli.app import main

    try:
        main()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
