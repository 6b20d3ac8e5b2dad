"""One pass over the rows: read, convert, search, encode; in several processes, in file order.

What a row comes to is decided later, by columns with a few numbers a row (``prepare.py``), so that
memory does not grow with the texts. The result is the same for any number of processes.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import multiprocessing
import os
import signal
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config.data import DataConfig
from posttrain.data.audit import AuditCheck
from posttrain.data.contamination import ContaminationIndex, Match
from posttrain.data.dedup import exact_digest, near_sketch
from posttrain.data.encode import Example
from posttrain.data.encoders import Encoder
from posttrain.data.readers import RowBatch
from posttrain.data.records import (
    Chat,
    Content,
    Origin,
    Preference,
    Record,
    Reject,
    Row,
    RowError,
)
from posttrain.data.split import split_digest
from posttrain.data.statistics import RowCounts
from posttrain.data.store import ExampleBlock
from posttrain.errors import DataError, PosttrainError
from posttrain.files import dump_line

Array = np.ndarray[Any, Any]
# Several processes pay off only where there is work for some seconds.
_BYTES_PER_WORKER = 8 << 20
_MOST_WORKERS = 16
# Batches in flight per process: enough that none waits, few enough that memory stays small.
_AHEAD = 3
_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Part:
    """One file of rows, with its format settled."""

    number: int
    """Of the file, in the order of reading."""
    path: Path
    convert: Callable[[Row], Content]
    batches: Callable[[], Iterator[RowBatch]]
    source: int
    """Number of the recipe's source it belongs to; -1 where it is only watched."""
    report: dict[str, Any] = field(default_factory=dict)
    """Path, format and evidence."""


@dataclass(frozen=True)
class BuildPlan:
    """All that a worker process needs; it is inherited, not sent."""

    config: DataConfig
    encoder: Encoder
    index: ContaminationIndex | None

    @property
    def keeps_tests(self) -> bool:
        """Whether rows may be set aside for test."""
        return self.config.split.test > 0

    @property
    def stops_at_long(self) -> bool:
        """Whether a row that is too long ends the run."""
        return getattr(self.config, "overlong", "reject") == "error"

    @property
    def splits(self) -> bool:
        """Whether rows go to several splits."""
        return self.config.split.validation + self.config.split.test > 0


@dataclass
class RowColumns:
    """What is known of some rows, one entry for each that was converted and encoded."""

    places: Array = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """[rows, 2] int64: number of the file, line."""
    examples: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    """[rows] int32: examples that the row gave; at least one."""
    split_digests: Array = field(default_factory=lambda: np.zeros((0, 16), np.uint8))
    """[rows, 16] uint8; no rows where nothing is split."""
    exact_digests: Array = field(default_factory=lambda: np.zeros((0, 16), np.uint8))
    """[rows, 16] uint8; no rows where duplicates are not looked for."""
    sketches: tuple[Array, ...] = ()
    """One per row, where near duplicates are looked for."""
    groups: tuple[str, ...] = ()
    strata: tuple[str, ...] = ()
    matches: dict[int, Match] = field(default_factory=dict)
    """Row -> evaluation problem that was found in it."""
    tests: tuple[str, ...] = ()
    """One line of JSON per row, where rows may be set aside for test."""

    @classmethod
    def join(cls, columns: Sequence[RowColumns]) -> RowColumns:
        """Lay columns one behind the other, without what is on disk: sketches and lines of JSON."""
        if not columns:
            return cls()
        starts = itertools.accumulate((len(c.examples) for c in columns), initial=0)
        return cls(
            np.concatenate([c.places for c in columns]),
            np.concatenate([c.examples for c in columns]),
            np.concatenate([c.split_digests for c in columns]),
            np.concatenate([c.exact_digests for c in columns]),
            groups=tuple(group for c in columns for group in c.groups),
            strata=tuple(stratum for c in columns for stratum in c.strata),
            matches={
                start + row: match
                for start, c in zip(starts, columns, strict=False)
                for row, match in c.matches.items()
            },
        )


@dataclass
class BatchResult:
    """What one batch of rows came to."""

    rows: int
    columns: RowColumns
    block: ExampleBlock
    rejects: list[Reject]
    counts: RowCounts
    audit: list[AuditCheck]
    tallies: Counter[str]
    """How many examples were retokenized, joined, truncated, split."""


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
    """Keep the garbage collector from what is there already, which takes 0.1 s each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _build_in_processes(
    tasks: Iterator[tuple[Part, RowBatch, int]],
    parts: Sequence[Part],
    plan: BuildPlan,
    workers: int,
) -> Iterator[tuple[Part, BatchResult]]:
    with _start_pool(plan, parts, workers) as pool:
        running: deque[tuple[Part, Future[BatchResult]]] = deque()
        try:
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
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


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
        workers, mp_context=multiprocessing.get_context("fork"), initializer=_live_with_parent
    )
    with warnings.catch_warnings():
        # The children run no torch and take no lock that another thread may hold.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        # Started here and now, all of them, before anything else is.
        for started in [pool.submit(os.getpid) for _ in range(workers)]:
            started.result()
    return pool


def _live_with_parent() -> None:
    """End with the parent, also where it is killed; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.name == "posix" and hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)


def _process(part: int, batch: RowBatch, first: int) -> BatchResult:
    assert _inherited is not None
    plan, parts = _inherited
    return process_batch(plan, parts[part], batch, first)


def process_batch(plan: BuildPlan, part: Part, batch: RowBatch, first: int) -> BatchResult:
    """Convert, search and encode the rows of a batch."""
    rows = _Rows(plan, part)
    for origin, row in batch.rows():
        rows.add(origin, row)
    return rows.finish(first)


class _Rows:
    """Gathers what the rows of one batch come to."""

    def __init__(self, plan: BuildPlan, part: Part) -> None:
        self._plan, self._part = plan, part
        self._split = plan.config.split
        self._dedup = plan.config.dedup
        self._rows = 0
        self._rejects: list[Reject] = []
        self._examples: list[Example] = []
        self._example_places: list[tuple[int, int]] = []
        self._given: list[int] = []
        self._places: list[tuple[int, int]] = []
        self._digests: dict[str, list[bytes]] = {"split": [], "exact": []}
        self._sketches: list[Array] = []
        self._groups: list[str] = []
        self._strata: list[str] = []
        self._matches: dict[int, Match] = {}
        self._tests: list[str] = []
        self._counts = RowCounts()
        self._tallies: Counter[str] = Counter()

    def add(self, origin: Origin, row: Row | RowError) -> None:
        """Take a row; it becomes examples or a reject."""
        self._rows += 1
        try:
            if isinstance(row, RowError):
                raise row
            record: Record[Any] = Record(self._part.convert(row), origin)
            examples = self._encode(record)
        except RowError as error:
            kept = getattr(error, "row", None) if isinstance(row, RowError) else row
            self._rejects.append(Reject(origin, error.reason, error.detail, kept))
            return
        place = (self._part.number, origin.line)
        self._note(record.content)
        self._places.append(place)
        self._given.append(len(examples))
        self._examples.extend(examples)
        self._example_places.extend([place] * len(examples))

    def _encode(self, record: Record[Any]) -> list[Example]:
        examples: list[Example] = []
        refused: list[Reject] = []
        for item in self._plan.encoder.encode((record,)):
            if isinstance(item, Example):
                examples.append(item)
            else:
                refused.append(item)
        if not examples:
            first = refused[0] if refused else Reject(record.origin, "nothing to learn")
            if first.reason == "too long" and self._plan.stops_at_long:
                raise DataError(
                    f"{record.origin}: {first.detail}",
                    hint="raise data.max_tokens, or set data.overlong: reject, truncate or split",
                )
            raise RowError(first.reason, first.detail)
        self._tallies["lost parts"] += len(refused)
        return examples

    def _note(self, content: Content) -> None:
        """Keep what decides about the row."""
        number = len(self._places)
        self._counts.count_content(content)
        watched = self._part.source < 0
        if self._plan.splits:
            self._digests["split"].append(split_digest(content.canonical()))
        if self._dedup:
            self._digests["exact"].append(exact_digest(content))
            if self._dedup.method == "near":
                self._sketches.append(near_sketch(content))
        if self._split.group_by:
            self._groups.append(content.keys.get(self._split.group_by, ""))
        if self._split.stratify_by:
            self._strata.append(content.keys.get(self._split.stratify_by, ""))
        if self._plan.keeps_tests:
            self._tests.append(dump_line(test_row(content)))
        if self._plan.index and not watched and (match := self._plan.index.find(content)):
            self._matches[number] = match

    def finish(self, first: int) -> BatchResult:
        """Lay all of it out, and audit the examples."""
        for example in self._examples:
            self._tallies["retokenized"] += example.retokenized
            self._tallies["joined"] += example.joined
            if example.cut:
                self._tallies[example.cut] += 1
        columns = RowColumns(
            np.array(self._places, dtype=np.int64).reshape(-1, 2),
            np.array(self._given, dtype=np.int32),
            _stack(self._digests["split"]),
            _stack(self._digests["exact"]),
            tuple(self._sketches),
            tuple(self._groups),
            tuple(self._strata),
            self._matches,
            tuple(self._tests),
        )
        return BatchResult(
            self._rows,
            columns,
            ExampleBlock.gather(self._examples, self._example_places),
            self._rejects,
            self._counts,
            self._plan.encoder.audit(self._examples, first) if self._examples else [],
            self._tallies,
        )


def _stack(digests: Sequence[bytes]) -> Array:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)


def test_row(content: Content) -> dict[str, Any]:
    """A record as a row of ``test.jsonl``, which can be read again."""
    tools = {"tools": content.tools} if not hasattr(content, "text") and content.tools else {}
    if isinstance(content, Chat):
        reference = {"reference": content.reference} if content.reference else {}
        return {**content.keys, "messages": content.messages, **tools, **reference}
    if isinstance(content, Preference):
        pair = {"prompt": content.prompt, "chosen": content.chosen, "rejected": content.rejected}
        return {**content.keys, **pair, **tools}
    return {**content.keys, "text": content.text}
