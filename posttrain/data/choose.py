"""What becomes of each row, decided by a few numbers a row: repeated, contaminated, which split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config.data import DataConfig
from posttrain.data.collect import AllRows
from posttrain.data.contamination import Match
from posttrain.data.dedup import find_duplicates_exact, find_duplicates_near
from posttrain.data.split import assign_splits
from posttrain.errors import DataError

Array = np.ndarray[Any, Any]
TRAIN, VALIDATION, TEST, DROPPED = 0, 1, 2, 3


@dataclass
class Choice:
    """What becomes of each row."""

    splits: Array
    """[rows] int8: TRAIN, VALIDATION, TEST or DROPPED."""
    repeats: Array
    """[rows] int64: the earlier row that it repeats, or -1."""
    contaminated: dict[int, Match] = field(default_factory=dict)
    """Row -> the evaluation problem for which it is dropped."""

    def count(self, split: int) -> int:
        """Rows of a split."""
        return int(np.count_nonzero(self.splits == split))


def choose_rows(config: DataConfig, rows: AllRows, spill: Path) -> Choice:
    """Decide what becomes of each row: repeated, contaminated, or in which split.

    Raises:
        DataError: A row is an evaluation problem, and the recipe says ``error``.
    """
    watched = rows.sources < 0
    learned = np.flatnonzero(~watched)
    choice = Choice(
        np.where(watched, VALIDATION, DROPPED).astype(np.int8), np.full(len(rows), -1, np.int64)
    )
    if config.dedup is not None and len(learned):
        choice.repeats = _find_duplicates(config, rows, watched, spill)
    choice.contaminated = _find_contaminated(config, rows, choice)
    dropped = np.array(sorted(choice.contaminated), dtype=np.int64)
    kept = learned[(choice.repeats[learned] < 0) & ~np.isin(learned, dropped)]
    choice.splits[kept] = _split(config, rows, kept)
    return choice


def _find_duplicates(config: DataConfig, rows: AllRows, watched: Array, spill: Path) -> Array:
    """For each learned row the first one that it repeats, watched rows before all others; or -1.

    A watched row [rows, bool] was set aside on purpose: what repeats it is not learned.
    """
    assert config.dedup is not None
    if config.dedup.method == "near":
        offsets = np.concatenate([[0], np.cumsum(rows.sketch_sizes, dtype=np.int64)])
        sketches = np.memmap(spill / "sketches.bin", dtype=np.uint32, mode="r")
        return find_duplicates_near(offsets, sketches, config.dedup.threshold, watched)
    order = np.argsort(~watched, kind="stable")
    first = find_duplicates_exact(rows.columns.exact_digests[order])
    repeats: Array = np.full(len(rows), -1, np.int64)
    repeats[order] = np.where(first >= 0, order[first], -1)
    repeats[watched] = -1
    return repeats


def _find_contaminated(config: DataConfig, rows: AllRows, choice: Choice) -> dict[int, Match]:
    settings = config.contamination
    found = {r: match for r, match in rows.columns.matches.items() if choice.repeats[r] < 0}
    if not found or settings is None or settings.action == "report":
        return {}
    if settings.action == "error":
        row, match = min(found.items())
        raise DataError(
            f"{rows.origin(row)}: this training row is also an evaluation problem "
            f"({match.what}, {match.origin}), and {len(found) - 1} others are",
            hint="remove them, or set data.contamination: drop",
        )
    return found


def _split(config: DataConfig, rows: AllRows, kept: Array) -> Array:
    shares = config.split
    columns = rows.columns
    if not shares.validation + shares.test:
        return np.full(len(kept), TRAIN, dtype=np.int8)
    for name, values in (("group_by", columns.groups), ("stratify_by", columns.strata)):
        field_name = getattr(shares, name)
        if field_name and len(kept) and not any(values):
            raise DataError(
                f"data.split.{name}: no row has a field `{field_name}`",
                hint="it must be a field of the rows besides those that hold the conversation",
            )
    return assign_splits(
        columns.split_digests[kept],
        validation=shares.validation,
        test=shares.test,
        seed=shares.seed,
        # A row without the field is a group of its own.
        groups=[columns.groups[row] or columns.split_digests[row].tobytes() for row in kept]
        if shares.group_by
        else None,
        strata=[columns.strata[row] for row in kept] if shares.stratify_by else None,
    )
