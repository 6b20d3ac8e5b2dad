"""Log-probabilities of given tokens, through packed batches of segment trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from posttrain.errors import DataError
from posttrain.generation.endings import find_context
from posttrain.layout import NO_PARENT, Segment, SegmentTable, build_batch
from posttrain.models.packed import score_batch

# A shorter head is not worth an attention of its own.
_SHARED_TOKENS = 16

Tree = Sequence[Segment]
"""A context and what continues it; parents are numbered within the tree."""


def score_trees(
    model: Any, trees: Sequence[Tree], *, batch_tokens: int
) -> Iterator[tuple[int, list[np.ndarray[Any, Any]]]]:
    """Score every weighted token of every tree.

    A context with several continuations goes through the model once, and what all contexts begin
    with, such as solved examples, once per batch.

    Args:
        model: Loaded with our packed attention, in evaluation mode.
        trees: Roots first.
        batch_tokens: Tokens scored side by side; a longer tree has a batch of its own.

    Yields:
        Number of a tree, batch by batch, and for each of its segments the log-probabilities of its
        weighted tokens in order, nats, float64.

    Raises:
        DataError: A text is longer than what the model takes.
    """
    _check_lengths(trees, find_context(model))
    head, trees = _take_shared_head(trees)
    for chosen in _plan(trees, batch_tokens, len(head)):
        segments = [Segment(head, np.zeros(len(head)))] if len(head) else []
        root = 0 if len(head) else NO_PARENT
        for index in chosen:
            before = len(segments)
            segments += [
                replace(s, parent=root if s.parent == NO_PARENT else s.parent + before)
                for s in trees[index]
            ]
        logprobs = _score(model, segments)
        counts = [int(np.count_nonzero(segment.weights)) for segment in segments]
        parts = iter(np.split(logprobs, np.cumsum(counts)[:-1]))
        if len(head):
            next(parts)  # of which nothing is scored
        for index in chosen:
            yield index, [next(parts) for _ in trees[index]]


def _check_lengths(trees: Sequence[Tree], context: int | None) -> None:
    for tree in trees:
        ends: list[int] = []
        for segment in tree:
            before = 0 if segment.parent == NO_PARENT else ends[segment.parent]
            ends.append(before + len(segment.token_ids))
        if context is not None and max(ends) > context:
            raise DataError(
                f"a text to be scored has {max(ends):,} tokens, and the model takes {context:,}",
                hint="lower window_tokens of perplexity; leave out shots or the question of arc, "
                "sat and the like",
            )


def _take_shared_head(trees: Sequence[Tree]) -> tuple[np.ndarray[Any, Any], Sequence[Tree]]:
    """Cut off what all trees begin with and nothing scores, where reading it once is worth it."""
    roots = [segment for tree in trees for segment in tree if segment.parent == NO_PARENT]
    first, same = (roots[0].token_ids if roots else np.zeros(0, dtype=np.int64)), 0
    if len(roots) == len(trees) > 1:
        same = min(_count_same(first, root) for root in roots)
    if same < _SHARED_TOKENS:
        return first[:0], trees
    cut = [
        [replace(s, token_ids=s.token_ids[same:], weights=s.weights[same:]), *rest]
        for s, *rest in trees
    ]
    return first[:same], cut


def _count_same(first: np.ndarray[Any, Any], root: Segment) -> int:
    """Tokens without weight that a root shares with the first one; it keeps one of its own."""
    most = min(len(first), len(root.token_ids) - 1)
    differs = (first[:most] != root.token_ids[:most]) | (root.weights[:most] != 0)
    return int(differs.argmax()) if differs.any() else most


def _plan(trees: Sequence[Tree], batch_tokens: int, head_tokens: int) -> Iterator[list[int]]:
    """Trees of similar size share a batch, so that attention pads little."""
    # A head is read in every batch: where it is long, batches are too.
    batch_tokens = max(batch_tokens - head_tokens, head_tokens)
    sizes = [sum(len(segment.token_ids) for segment in tree) for tree in trees]
    chosen: list[int] = []
    filled = 0
    for index in sorted(range(len(trees)), key=lambda i: sizes[i]):
        if chosen and filled + sizes[index] > batch_tokens:
            yield chosen
            chosen, filled = [], 0
        chosen.append(index)
        filled += sizes[index]
    if chosen:
        yield chosen


def _score(model: Any, segments: Sequence[Segment]) -> np.ndarray[Any, Any]:
    packed = _drop_unread(build_batch(segments))
    # What only training needs stays behind.
    names = ("input_ids", "position_ids", "score_positions", "score_targets")
    batch = {name: torch.from_numpy(packed[name]).to(model.device) for name in names}
    with torch.no_grad():
        scores = score_batch(model, {**batch, "segments": packed["segments"]})
    logprobs: np.ndarray[Any, Any] = scores.logprobs_N.double().cpu().numpy()
    return logprobs


def _drop_unread(packed: dict[str, Any]) -> dict[str, Any]:
    """Leave out the last tokens of leaves: they are foretold, and foretell nothing themselves."""
    table: SegmentTable = packed["segments"]
    lengths = np.array(table.lengths)
    leaves = np.setdiff1d(np.arange(len(lengths)), table.parents)
    kept_T: np.ndarray[Any, Any] = np.ones(table.total_tokens, dtype=bool)
    kept_T[np.array(table.starts)[leaves] + lengths[leaves] - 1] = False
    if not kept_T.any():
        return packed
    lengths[leaves] -= 1
    kept_S = lengths > 0
    new_S, new_T = np.cumsum(kept_S) - 1, np.cumsum(kept_T) - 1
    kept = [int(length) for length in lengths[kept_S]]
    parents = [int(new_S[p]) if p >= 0 else p for p in np.array(table.parents)[kept_S]]
    starts = [int(start) for start in np.cumsum([0, *kept[:-1]])]
    return {
        **packed,
        "input_ids": packed["input_ids"][:, kept_T],
        "position_ids": packed["position_ids"][:, kept_T],
        "segments": SegmentTable(tuple(starts), tuple(kept), tuple(parents)),
        "score_positions": new_T[packed["score_positions"]],
    }
