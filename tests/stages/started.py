"""The command in a process of its own, forked from one that has imported torch and all the rest.

What a test sees is what a new process would show: arguments, folder, environment, streams and exit
status are the process's own. Only the seconds that every start spends on imports are spent once.
"""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

PRELOADED = [
    "posttrain.cli.app",
    "posttrain.runs.finish",
    "posttrain.runs.kinds",
    "posttrain.runs.plan",
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
        streams = [Path(place) / name for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin)
        process = _context.Process(target=_start, args=(arguments, folder, environment, streams))
        _launch(process, environment)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout, *_read(streams))
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(arguments, code or 0, *_read(streams))


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
    arguments: list[str], folder: Path, environment: dict[str, str], streams: list[Path]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate(streams):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(path, flags), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.argv = ["-c", *arguments]
    from posttrain.cli.app import main

    try:
        main()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
