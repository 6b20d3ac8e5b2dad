"""How several sources share an epoch: how many examples of each, and in which order."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SourceShare:
    """What a recipe says about a source's part in an epoch."""

    weight: float | None = None
    """Share of the examples, relative to the other sources' weights; 1 where only they have one."""
    epochs: float | None = None
    """Passes over the source in one epoch, whatever the other sources have."""
    max_rows: int | None = None
    """Most of its examples in one epoch, whatever else is set."""


def plan_draws(
    sizes: Sequence[int], shares: Sequence[SourceShare], temperature: float = 1.0
) -> list[int]:
    """Count how many examples each source gives to one epoch.

    Nothing set: every example once. The sources without ``epochs`` share as many examples as they
    have together (of each at most ``max_rows``): by their weights where one has a weight, else by
    the temperature. What a source cannot take, for want of examples or by its ``max_rows``, goes to
    the others.

    Args:
        sizes: Examples of each source.
        shares: What is set for each.
        temperature: Above 0. A source of n examples gets a share in proportion to n^(1 / T): 1
            keeps the proportions, larger values bring small sources forward.

    Returns:
        Examples drawn of each source, in their order; more than it has where it is repeated.

    Raises:
        ValueError: A source has both weight and epochs; weights and a temperature other than 1 are
            given; a value is out of range.

    Source:
        Of the temperature: Arivazhagan et al. 2019, arXiv:1907.05019.
    """
    weighted = any(share.weight is not None for share in shares)
    _check(shares, weighted, temperature)
    draws = [0] * len(sizes)
    sharing: dict[int, float] = {}
    caps = [share.max_rows if share.max_rows is not None else math.inf for share in shares]
    used = [int(min(n, cap)) for n, cap in zip(sizes, caps, strict=True)]
    for source, share in enumerate(shares):
        if share.epochs is not None:
            # Half an example counts as one, as people round.
            draws[source] = int(min(math.floor(sizes[source] * share.epochs + 0.5), caps[source]))
        elif weighted and used[source]:
            sharing[source] = 1.0 if share.weight is None else share.weight
        elif used[source]:
            # Relative to the largest, so that a low temperature does not overflow.
            sharing[source] = (used[source] / max(used)) ** (1 / temperature)
    wanted = sum(used[source] for source in sharing)
    for source, drawn in _apportion(wanted, sharing, caps).items():
        draws[source] = drawn
    return draws


def interleave(sizes: Sequence[int], draws: Sequence[int], *, seed: int, epoch: int = 0) -> Array:
    """Order an epoch's examples so that every part of it holds all sources in their proportion.

    Of two sources, the first m examples hold of each its share of m to within one half; of any
    number of sources, to within 1.7. A source's examples come in passes, each in an order of its
    own, which go on from epoch to epoch: no example comes again before all of its source have come.

    Args:
        sizes: Examples of each source; they are numbered from source to source.
        draws: How many to take of each in every epoch, from `plan_draws`.
        seed: Of the orders.
        epoch: Counted from 0.

    Returns:
        Numbers of examples, [sum of draws].

    Raises:
        ValueError: Something is to be drawn from a source without examples.
    """
    first = np.cumsum([0, *sizes])
    # The two smallest are merged until one is left: what is off then adds up the least.
    heap: list[tuple[int, int, Array]] = []
    for source, (size, drawn) in enumerate(zip(sizes, draws, strict=True)):
        if drawn and not size:
            raise ValueError("nothing can be drawn from a source without examples")
        if drawn:
            taken = _draw(size, epoch * drawn, (epoch + 1) * drawn, (seed, source))
            heap.append((drawn, source, first[source] + taken))
    heapq.heapify(heap)
    while len(heap) > 1:
        fewer, more = heapq.heappop(heap), heapq.heappop(heap)
        merged = _merge(fewer[2], more[2])
        heapq.heappush(heap, (len(merged), min(fewer[1], more[1]), merged))
    return heap[0][2] if heap else np.empty(0, np.int64)


def _check(shares: Sequence[SourceShare], weighted: bool, temperature: float) -> None:
    if weighted and temperature != 1.0:
        raise ValueError("weights and a temperature both set the shares; give one")
    if not 0 < temperature < math.inf:
        raise ValueError(f"a temperature is above 0, not {temperature}")
    for share in shares:
        if share.weight is not None and share.epochs is not None:
            raise ValueError("a weight and epochs both say how often a source is seen; give one")
        for value in (share.weight, share.epochs, share.max_rows):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"weights, epochs and rows are 0 or more, not {value}")


def _apportion(total: int, weights: Mapping[int, float], caps: Sequence[float]) -> dict[int, int]:
    """Part a whole number in proportion, none above its cap; what they cannot take is not parted.

    By largest remainders, of equal ones the first.
    """
    parts = {source: 0 for source, weight in weights.items() if not weight}
    open_ = {source: weight for source, weight in weights.items() if weight}
    while open_:
        whole = math.fsum(open_.values())
        left = total - sum(parts.values())
        exact = {source: left * (weight / whole) for source, weight in open_.items()}
        full = [source for source, share in exact.items() if share > caps[source]]
        if not full:
            return parts | _round(left, exact)
        for source in full:
            parts[source] = int(caps[source])
            del open_[source]
    return parts


def _round(total: int, exact: Mapping[int, float]) -> dict[int, int]:
    parts = {source: math.floor(share) for source, share in exact.items()}
    by_remainder = sorted(exact, key=lambda source: (parts[source] - exact[source], source))
    for source in by_remainder[: total - sum(parts.values())]:
        parts[source] += 1
    return parts


def _draw(size: int, start: int, end: int, seed: tuple[int, int]) -> Array:
    """Draw from a source's endless row of passes, each in an order of its own."""
    passes = range(start // size, -(-end // size))
    orders = [np.random.default_rng((*seed, number)).permutation(size) for number in passes]
    return np.concatenate(orders)[start - passes[0] * size :][: end - start]


def _merge(fewer: Array, more: Array) -> Array:
    """Spread the fewer evenly among the more: the k-th of n to the place (k + 1/2) / n."""
    merged: Array = np.empty(len(fewer) + len(more), np.int64)
    taken: Array = np.zeros(len(merged), bool)
    taken[(2 * np.arange(len(fewer)) + 1) * len(merged) // (2 * len(fewer))] = True
    merged[taken], merged[~taken] = fewer, more
    return merged
