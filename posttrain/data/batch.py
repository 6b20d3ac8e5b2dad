"""What becomes of the rows of one batch: convert, search, encode.

What a row comes to is decided later, by columns with a few numbers a row (``choose.py``), so that
memory does not grow with the texts.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from posttrain.errors import DataError
from posttrain.files import dump_line

Array = np.ndarray[Any, Any]


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
    numbers: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """[rows] int64: number among all rows read, unusable ones too; several may share a line."""
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
            np.concatenate([c.numbers for c in columns]),
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
    parts: list[Reject]
    """Parts that were left out of rows that are used; no rows of their own."""
    counts: RowCounts
    audit: list[AuditCheck]
    tallies: Counter[str]
    """How many examples were retokenized; rows joined, truncated, split; parts that were lost."""


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
        self._parts: list[Reject] = []
        self._examples: list[Example] = []
        self._example_places: list[tuple[int, int]] = []
        self._given: list[int] = []
        self._places: list[tuple[int, int]] = []
        self._numbers: list[int] = []
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
            examples, left_out = self._encode(record)
        except RowError as error:
            kept = getattr(error, "row", None) if isinstance(row, RowError) else row
            self._rejects.append(Reject(origin, error.reason, error.detail, kept))
            return
        place = (self._part.number, origin.line)
        self._parts += [replace(part, row=row) for part in left_out]
        self._note(record.content)
        self._places.append(place)
        self._numbers.append(self._rows - 1)
        self._given.append(len(examples))
        self._examples.extend(examples)
        self._example_places.extend([place] * len(examples))

    def _encode(self, record: Record[Any]) -> tuple[list[Example], list[Reject]]:
        """Make examples of a row, and find the parts of it that became none."""
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
        self._tallies["joined"] += any(example.joined for example in examples)
        self._tallies.update({example.cut for example in examples if example.cut})
        return examples, refused

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
            self._tests.append(dump_line(_test_row(content)))
        if self._plan.index and not watched and (match := self._plan.index.find(content)):
            self._matches[number] = match

    def finish(self, first: int) -> BatchResult:
        """Lay all of it out, and audit the examples."""
        for example in self._examples:
            self._tallies["retokenized"] += example.retokenized
        columns = RowColumns(
            np.array(self._places, dtype=np.int64).reshape(-1, 2),
            np.array(self._numbers, dtype=np.int64) + first,
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
            self._parts,
            self._counts,
            self._plan.encoder.audit(self._examples, first) if self._examples else [],
            self._tallies,
        )


def _stack(digests: Sequence[bytes]) -> Array:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)


def _test_row(content: Content) -> dict[str, Any]:
    """A record as a row of ``test.jsonl``, which can be read again."""
    tools = {"tools": content.tools} if not hasattr(content, "text") and content.tools else {}
    if isinstance(content, Chat):
        reference = {"reference": content.reference} if content.reference else {}
        return {**content.keys, "messages": content.messages, **tools, **reference}
    if isinstance(content, Preference):
        pair = {"prompt": content.prompt, "chosen": content.chosen, "rejected": content.rejected}
        return {**content.keys, **pair, **tools}
    return {**content.keys, "text": content.text}
