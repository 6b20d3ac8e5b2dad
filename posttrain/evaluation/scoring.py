"""Log-probabilities of given tokens, through packed batches of segment trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from posttrain.layout import NO_PARENT, Segment, build_batch
from posttrain.models.packed import score_batch

Tree = Sequence[Segment]
"""A context and what continues it; parents are numbered within the tree."""


def score_trees(
    model: Any,
    trees: Sequence[Tree],
    *,
    batch_tokens: int,
    progress: Callable[[int], None] | None = None,
) -> list[list[np.ndarray[Any, Any]]]:
    """Score every weighted token of every tree.

    A context with several continuations goes through the model once.

    Args:
        model: Loaded with our packed attention, in evaluation mode.
        trees: Roots first.
        batch_tokens: Tokens scored side by side; a longer tree has a batch of its own.
        progress: Called with the number of scored trees after each batch.

    Returns:
        Per tree and segment the log-probabilities of its weighted tokens in order, nats, float64.
    """
    scores: dict[int, list[np.ndarray[Any, Any]]] = {}
    for chosen in _plan(trees, batch_tokens):
        segments: list[Segment] = []
        for index in chosen:
            before = len(segments)
            segments += [
                s if s.parent == NO_PARENT else replace(s, parent=s.parent + before)
                for s in trees[index]
            ]
        logprobs = _score(model, segments)
        counts = [int(np.count_nonzero(segment.weights)) for segment in segments]
        parts = iter(np.split(logprobs, np.cumsum(counts)[:-1]))
        for index in chosen:
            scores[index] = [next(parts) for _ in trees[index]]
        if progress:
            progress(len(scores))
    return [scores[i] for i in range(len(trees))]


def _plan(trees: Sequence[Tree], batch_tokens: int) -> Iterator[list[int]]:
    """Trees of similar size share a batch, so that attention pads little."""
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
    packed = build_batch(segments)
    # What only training needs stays behind.
    names = ("input_ids", "position_ids", "score_positions", "score_targets")
    batch = {name: torch.from_numpy(packed[name]).to(model.device) for name in names}
    with torch.no_grad():
        scores = score_batch(model, {**batch, "segments": packed["segments"]})
    logprobs: np.ndarray[Any, Any] = scores.logprobs_N.double().cpu().numpy()
    return logprobs
