"""What can go wrong while a process works, made to go wrong at one exact step.

Python tells an audit hook before it opens, renames or removes a file. At the wanted step the hook
kills the process or holds it: no clock, no luck, and nothing of ours replaced.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HELD_SECONDS = 120


def kill_at(event: str, ending: str) -> None:
    """Die by SIGKILL before the first ``event`` at a path that ends so."""
    _watch(event, ending, lambda: os.kill(os.getpid(), signal.SIGKILL), workers=False)


def hold_at(event: str, ending: str, place: Path, *, workers: bool = False) -> None:
    """Stand still before the first ``event`` at a path that ends so, until ``release``.

    Args:
        event: Of ``sys.audit``.
        ending: Of a path of the event.
        place: Folder; ``held`` appears in it.
        workers: Only where worker processes are there.
    """
    _watch(event, ending, lambda: _hold(place), workers=workers)


def note_each(event: str, ending: str, path: Path) -> None:
    """Append a line to ``path`` before each ``event`` at a path that ends so."""

    def note() -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{os.getpid()}\n".encode())
        os.close(handle)

    _watch(event, ending, note, workers=False, always=True)


def limit_file_size(size_bytes: int) -> None:
    """Refuse to let any file grow further, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


def limit_memory(further_bytes: int) -> None:
    """Let the process take so much more address space than it has now, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + further_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


@contextlib.contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size inside the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def wait_held(place: Path, process: Any) -> None:
    """Wait until a process stands still."""
    deadline = time.monotonic() + _HELD_SECONDS
    while not (place / "held").exists():
        assert process.is_alive(), "it has ended before it came to that step"
        assert time.monotonic() < deadline, "it never came to that step"
        time.sleep(0.005)


def release(place: Path) -> None:
    """Let a process go on that stands still."""
    (place / "go").touch()


def _hold(place: Path) -> None:
    (place / "held").touch()
    deadline = time.monotonic() + _HELD_SECONDS
    while not (place / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def _watch(event: str, ending: str, act: Any, *, workers: bool, always: bool = False) -> None:
    own = os.getpid()  # Worker processes inherit the hook and shall not act.
    waiting = True

    def look(happened: str, arguments: tuple[Any, ...]) -> None:
        nonlocal waiting
        if not waiting or happened != event or os.getpid() != own:
            return
        if not any(str(a).endswith(ending) for a in arguments if isinstance(a, str | Path)):
            return
        if workers and not multiprocessing.active_children():
            return
        waiting = always
        act()

    sys.addaudithook(look)


def poison_token(token: int, *, gradient: bool = False) -> None:
    """Turn the embeddings of a batch that holds some token into NaN, in training only.

    Args:
        token: Its id.
        gradient: Only what comes back to them.
    """
    import torch

    def look(module: Any, arguments: Any, output: Any) -> Any:
        if not isinstance(module, torch.nn.Embedding) or not torch.is_grad_enabled():
            return None
        if not (arguments[0] == token).any():
            return None
        if gradient:
            output.register_hook(lambda grad: grad * float("nan"))
            return None
        return output * float("nan")

    torch.nn.modules.module.register_module_forward_hook(look)


def spoil_batch(factor: float, number: int) -> None:
    """Blow up the hidden states of one batch of training, the number-th; its loss jumps."""
    import torch

    calls = 0

    def look(module: Any, arguments: Any, output: Any) -> Any:
        nonlocal calls
        if not torch.is_grad_enabled():
            return None
        calls += isinstance(module, torch.nn.Embedding)
        spoils = calls == number and type(module).__name__.endswith("RMSNorm")
        return output * factor if spoils else None

    torch.nn.modules.module.register_module_forward_hook(look)
