"""A packed batch's rule of who sees whom, cut into tiles.

Letters: T tokens of the batch, L tokens of the longest segment of a group, n segments of a group, m
tokens of them that are not filling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from posttrain.layout import SegmentTable

# Shorter segments share a call: below this, calls cost more than laying tokens side by side.
_SHORT = 96
# A group's padding inside attention; the rest of the model never sees a padded token.
_PADDING_ALLOWED = 1.25

Range = tuple[int, int]


class Tile(NamedTuple):
    """Queries in a range see keys in a range."""

    queries: slice
    keys: slice
    causal: bool
    """Whether each query sees the keys up to itself alone; the ranges are then the same."""
    joins: bool
    """Whether the queries have results of an earlier tile, which these are joined to."""


@dataclass(frozen=True)
class Group:
    """Short ranges of similar length side by side, each seeing itself up to each token."""

    count: int
    """n."""
    laid: Tensor
    """[n * L] indices into T; shorter ranges are filled up with their last token."""
    filling: Tensor
    """Places in n * L that hold a repeat, whose result nobody takes."""
    kept: Tensor
    """[m] indices into n * L of all others."""
    tokens: Tensor
    """[m] indices into T of these."""


@dataclass(frozen=True)
class TilePlan:
    """A batch's rule; groups come first, then tiles in their order."""

    groups: tuple[Group, ...]
    tiles: tuple[Tile, ...]


def plan_tiles(table: SegmentTable) -> TilePlan:
    """Cut the rule of a batch into tiles.

    A segment, its child right behind it, that one's child and so on are one causal range. What
    ranges see besides are their first segments' ancestors; siblings side by side see them together.
    """
    chains = list(_find_chains(table))
    ranges = [_range_of(table, first, last) for first, last in chains]
    short = [r for r in ranges if table.causal and r[1] - r[0] < _SHORT]
    together = [members for members in _group_ranges(short) if len(members) > 1]
    grouped = {member for members in together for member in members}
    own = [Tile(slice(*r), slice(*r), table.causal, False) for r in ranges if r not in grouped]
    groups = tuple(_build_group(members) for members in together)
    return TilePlan(groups, (*own, *_plan_ancestors(table, chains, ranges)))


def _find_chains(table: SegmentTable) -> Iterator[Range]:
    """Yield first and last segment of each run in which every one is the next one's parent."""
    first = 0
    for i in range(1, len(table.parents) + 1):
        if i == len(table.parents) or table.parents[i] != i - 1:
            yield first, i - 1
            first = i


def _range_of(table: SegmentTable, first: int, last: int) -> Range:
    return table.starts[first], table.starts[last] + table.lengths[last]


def _plan_ancestors(
    table: SegmentTable, chains: list[Range], ranges: list[Range]
) -> Iterator[Tile]:
    """Yield tiles of what ranges see before them."""
    wide: dict[Range, list[Range]] = {}
    for (first, _), (start, end) in zip(chains, ranges, strict=True):
        for keys in _join_ranges([_range_of(table, a, a) for a in table.ancestors(first)]):
            wide.setdefault(keys, []).append((start, end))
    for keys, queries in wide.items():
        for together in _join_ranges(queries):
            yield Tile(slice(*together), slice(*keys), causal=False, joins=True)


def _join_ranges(ranges: list[Range]) -> list[Range]:
    """Join ranges that begin where the one before them ends."""
    joined: list[Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _group_ranges(ranges: list[Range]) -> Iterator[list[Range]]:
    """Sort by length and cut where there would be too much padding."""
    group: list[Range] = []
    real = 0
    for start, end in sorted(ranges, key=lambda r: (r[1] - r[0], r[0])):
        length = end - start
        if (len(group) + 1) * length > _PADDING_ALLOWED * (real + length):
            yield group
            group, real = [], 0
        group.append((start, end))
        real += length
    if group:
        yield group


def _build_group(members: list[Range]) -> Group:
    place_L = torch.arange(max(end - start for start, end in members))
    start_n, last_n = (torch.tensor(x)[:, None] for x in zip(*members, strict=True))
    last_n = last_n - 1
    laid = torch.minimum(start_n + place_L, last_n).flatten()
    is_real = (start_n + place_L <= last_n).flatten()
    kept = is_real.nonzero()[:, 0]
    return Group(len(members), laid, (~is_real).nonzero()[:, 0], kept, laid[kept])
