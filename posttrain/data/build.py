"""One pass over the rows, in several processes, in file order.

The result is the same for any number of processes.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager

from posttrain.data.batch import BatchResult, BuildPlan, Part, process_batch
from posttrain.data.readers import RowBatch
from posttrain.errors import PosttrainError

# Several processes pay off only where there is work for some seconds.
_BYTES_PER_WORKER = 8 << 20
_MOST_WORKERS = 16
# Batches in flight per process: enough that none waits, few enough that memory stays small.
_AHEAD = 3
_ALLOCATIONS = 50_000
_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def build_batches(
    parts: Sequence[Part], plan: BuildPlan, workers: int
) -> Iterator[tuple[Part, BatchResult]]:
    """Process every row of some files.

    Args:
        parts: The files, in order.
        plan: What is done to each row.
        workers: Processes; 1 is this one.

    Yields:
        The file and what a batch of its rows came to, in order.

    Raises:
        PosttrainError: A row stops the run, or a process was killed.
    """
    tasks = _list_tasks(parts)
    with _settled_heap():
        # The first ones here: processes then inherit what was learned of tokenizer and template.
        for part, batch, first in tasks if workers == 1 else itertools.islice(tasks, 1):
            yield part, process_batch(plan, part, batch, first)
        if workers > 1:
            yield from _build_in_processes(tasks, parts, plan, workers)


@contextmanager
def _settled_heap() -> Iterator[None]:
    """Keep the garbage collector from what is there already, and call it less often.

    What a row leaves behind is gone without it; it would take one part in twenty of the time.
    """
    often = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, *often[1:])
    try:
        yield
    finally:
        gc.set_threshold(*often)
        gc.unfreeze()


def _build_in_processes(
    tasks: Iterator[tuple[Part, RowBatch, int]],
    parts: Sequence[Part],
    plan: BuildPlan,
    workers: int,
) -> Iterator[tuple[Part, BatchResult]]:
    running: deque[tuple[Part, Future[BatchResult]]] = deque()
    try:
        with ExitStack() as stack:
            pool = _start_pool(plan, parts, workers)
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            for part, batch, first in tasks:
                running.append((part, pool.submit(_process, part.number, batch, first)))
                if len(running) >= workers * _AHEAD:
                    yield _take(running)
            while running:
                yield _take(running)
    except BrokenProcessPool:
        raise PosttrainError(
            "a process that prepares data was killed, as happens where memory runs out",
            hint="run the same command again, with data.workers=1 if need be",
        ) from None


def _take(running: deque[tuple[Part, Future[BatchResult]]]) -> tuple[Part, BatchResult]:
    part, future = running.popleft()
    return part, future.result()


def choose_workers(wanted: int | str, parts: Iterable[Part]) -> int:
    """Number of processes: as wanted, or by the cores and the size of the files."""
    if isinstance(wanted, int):
        return wanted
    size = sum(part.path.stat().st_size for part in parts)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, size // _BYTES_PER_WORKER, _MOST_WORKERS))


def _list_tasks(parts: Iterable[Part]) -> Iterator[tuple[Part, RowBatch, int]]:
    """Yield batches with the number of their first row."""
    first = 0
    for part in parts:
        for batch in part.batches():
            yield part, batch, first
            first += len(batch)


_inherited: tuple[BuildPlan, Sequence[Part]] | None = None


def _start_pool(plan: BuildPlan, parts: Sequence[Part], workers: int) -> ProcessPoolExecutor:
    """Start processes that inherit the plan: forked, for a tokenizer takes long to send."""
    global _inherited
    _inherited = (plan, parts)
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("fork"),
        initializer=_live_with_parent,
        initargs=(os.getpid(),),
    )
    with warnings.catch_warnings():
        # The children run no torch and take no lock that another thread may hold.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        # Started here and now, all of them, before anything else is.
        for started in [pool.submit(os.getpid) for _ in range(workers)]:
            started.result()
    return pool


def _live_with_parent(parent: int) -> None:
    """End with the parent, also where it is killed; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.name == "posix" and hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be asked for
        os._exit(1)


def _process(part: int, batch: RowBatch, first: int) -> BatchResult:
    assert _inherited is not None
    plan, parts = _inherited
    return process_batch(plan, parts[part], batch, first)
