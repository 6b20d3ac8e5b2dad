"""All rows read once: examples go to disk, and what decides about the rows stays in memory."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data.audit import AuditCheck, merge_checks
from posttrain.data.batch import BatchResult, BuildPlan, Part, RowColumns
from posttrain.data.build import build_batches, choose_workers
from posttrain.data.records import Origin, Reject
from posttrain.data.statistics import RowCounts
from posttrain.data.store import BlockWriter
from posttrain.files import dump_line
from posttrain.logs import Progress

Array = np.ndarray[Any, Any]


@dataclass
class AllRows:
    """What all batches came to: a few numbers a row."""

    parts: list[Part]
    read: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    first_rejects: dict[str, Reject] = field(default_factory=dict)
    """Of each reason the first one, in the order of the rows."""
    read_of_part: Counter[int] = field(default_factory=Counter)
    rejects_of_part: dict[int, Counter[str]] = field(default_factory=dict)
    batches: list[RowColumns] = field(default_factory=list)
    columns: RowColumns = field(default_factory=RowColumns)
    """Of all rows that became examples, in order."""
    sketch_sizes: list[int] = field(default_factory=list)
    """Words of each row's entry in ``sketches.bin``."""
    counts: RowCounts = field(default_factory=RowCounts)
    audit: list[AuditCheck] = field(default_factory=list)
    tallies: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.columns.examples)

    @property
    def sources(self) -> Array:
        """[rows] number of the recipe's source of each row; -1 where it is only watched."""
        source_of_part = np.array([part.source for part in self.parts], dtype=np.int64)
        return source_of_part[self.columns.places[:, 0]]

    def origin(self, row: int) -> Origin:
        """Return where a row was read."""
        file, line = self.columns.places[row]
        return Origin(str(self.parts[int(file)].path), int(line))

    def take(self, part: Part, result: BatchResult) -> None:
        """Add what a batch came to."""
        reasons = Counter(reject.reason for reject in result.rejects)
        self.read += result.rows
        self.read_of_part[part.number] += result.rows
        self.rejects += reasons
        self.rejects_of_part.setdefault(part.number, Counter()).update(reasons)
        for reject in result.rejects:
            self.first_rejects.setdefault(reject.reason, reject)
        self.batches.append(result.columns)
        self.counts.merge(result.counts)
        self.audit = merge_checks(self.audit, result.audit)
        self.tallies += result.tallies


def collect_rows(parts: list[Part], plan: BuildPlan, spill: Path) -> AllRows:
    """Process every row of some files.

    Args:
        parts: The files, in order.
        plan: What is done to each row.
        spill: Folder to make: columns of all examples, ``rejects.jsonl`` (with parts that were
            left out of rows), ``tests.jsonl`` with a line per row, and ``sketches.bin``.

    Returns:
        What is known of the rows.

    Raises:
        PosttrainError: A row stops the run.
    """
    rows = AllRows(parts)
    progress = Progress("preparing data", 0, "rows")
    workers = choose_workers(plan.config.workers, parts)
    with ExitStack() as stack:
        writer = stack.enter_context(BlockWriter(spill))
        rejects = stack.enter_context((spill / "rejects.jsonl").open("w", encoding="utf-8"))
        tests = stack.enter_context((spill / "tests.jsonl").open("w", encoding="utf-8"))
        sketches = stack.enter_context((spill / "sketches.bin").open("wb"))
        for part, result in build_batches(parts, plan, workers):
            writer.add(result.block)
            unused = itertools.chain(result.rejects, result.parts)
            rejects.writelines(f"{dump_line(reject.to_json())}\n" for reject in unused)
            tests.writelines(f"{line}\n" for line in result.columns.tests)
            sketches.write(b"".join(sketch.tobytes() for sketch in result.columns.sketches))
            rows.sketch_sizes += map(len, result.columns.sketches)
            result.columns.tests = result.columns.sketches = ()
            rows.take(part, result)
            progress.update(rows.read)
    rows.columns = RowColumns.join(rows.batches)
    rows.batches = []
    return rows
