"""Which examples share a batch: the whole schedule of a run, settled before its first step.

The schedule is a pure function of lengths, seed and limits. Resuming is therefore skipping, and
`posttrain plan` can count optimizer steps exactly.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Examples that are packed against each other; larger fills batches better, smaller shuffles better.
_WINDOW_BATCHES = 16


def plan_batches(
    lengths: Sequence[int] | np.ndarray[Any, Any],
    *,
    batch_tokens: int,
    seed: int,
    epochs: float | None = None,
    batches: int | None = None,
    draw: Callable[[int], np.ndarray[Any, Any]] | None = None,
) -> list[np.ndarray[Any, Any]]:
    """Plan the batches of a whole run.

    Each pass over the data is shuffled by (seed, pass); within a window of batches, examples are
    placed best-fit from the longest down; then the window's batches are shuffled.

    Args:
        lengths: Tokens per example; none above ``batch_tokens``.
        batch_tokens: Most tokens in a batch.
        seed: Of the shuffling.
        epochs: Passes over the data; a fraction is a partial last pass.
        batches: Number of batches instead, over as many passes as that takes.
        draw: Indices of the examples of pass n, where it is not each of them once.

    Returns:
        Indices of examples, one array per batch.

    Raises:
        ValueError: No examples, one longer than a batch, or not exactly one of epochs and batches.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if not len(sizes) or sizes.max() > batch_tokens or (epochs is None) == (batches is None):
        raise ValueError("need examples that fit a batch, and either epochs or batches")
    plan: list[np.ndarray[Any, Any]] = []
    number = 0
    while True:
        remaining = 1.0 if epochs is None else epochs - number
        if remaining <= 0 or (batches is not None and len(plan) >= batches):
            break
        generator = np.random.default_rng((seed, number))
        # What is drawn is in an order already, in which the sources stand evenly.
        order = generator.permutation(len(sizes)) if draw is None else draw(number)
        taken = round(len(order) * min(1.0, remaining))
        # A pass of no example is none, unless it is all there is (rounding: 3.0000000000000004).
        if not taken and plan:
            break
        order = order[: max(1, taken)]
        plan.extend(_pack_pass(order, sizes, batch_tokens, generator))
        number += 1
    return plan[:batches]


def _pack_pass(
    order: np.ndarray[Any, Any],
    sizes: np.ndarray[Any, Any],
    batch_tokens: int,
    generator: np.random.Generator,
) -> list[np.ndarray[Any, Any]]:
    """Pack one shuffled pass window by window; a window's emptiest batch joins the next window."""
    window_of = np.cumsum(sizes[order]) // (batch_tokens * _WINDOW_BATCHES)
    packed: list[np.ndarray[Any, Any]] = []
    carried = order[:0]
    # The numbers of windows only rise, so that each window is one stretch.
    bounds = np.asarray(np.searchsorted(window_of, np.arange(int(window_of[-1]) + 2)))
    for window in range(int(window_of[-1]) + 1):
        members = np.concatenate([carried, order[bounds[window] : bounds[window + 1]]])
        bins = pack_sizes(members, sizes, batch_tokens)
        carried = order[:0]
        if window < window_of[-1] and bins:
            carried = bins.pop(min(range(len(bins)), key=lambda i: sizes[bins[i]].sum()))
        packed.extend(bins[i] for i in generator.permutation(len(bins)))
    return packed


def pack_sizes(
    indices: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any], capacity: int
) -> list[np.ndarray[Any, Any]]:
    """Best-fit decreasing: each item into the fullest bin that still holds it.

    Args:
        indices: Items to place, numbers into ``sizes``.
        sizes: Tokens of every item.
        capacity: Most tokens in a bin; no item is larger.

    Returns:
        Items of each bin.
    """
    bins: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (free tokens, bin), ascending
    chosen_sizes: np.ndarray[Any, Any] = sizes[indices].astype(np.int64)
    order = np.lexsort((indices, -chosen_sizes))
    for index, size in zip(indices[order].tolist(), chosen_sizes[order].tolist(), strict=True):
        place = bisect.bisect_left(space, (size, -1))
        if place == len(space):
            free, chosen = capacity, len(bins)
            bins.append([])
        else:
            free, chosen = space.pop(place)
        bins[chosen].append(index)
        bisect.insort(space, (free - size, chosen))
    return [np.array(items) for items in bins]
