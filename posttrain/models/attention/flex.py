"""FlexAttention with the segment rule as its block mask, built from the segments' borders."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.layout import SegmentTable
from posttrain.models.attention.call import (
    align,
    path_starts,
    scale_of,
    segment_table,
    softcap_of,
    window_of,
)

BLOCK = 128
"""Tokens along each side of a block; FlexAttention's own choice."""
_Blocks = np.ndarray[Any, Any]


def attend_flex(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers."""
    from torch.nn.attention.flex_attention import flex_attention

    table = segment_table(kwargs)
    window = window_of(table, kwargs)
    mask = table.plan(
        ("flex", query.device, window), lambda: _build_mask(table, query.device, window)
    )
    query, key, value = align(query, key, value)
    attend = flex_attention if query.device.type == "cpu" else _compiled_flex()
    softcap = softcap_of(kwargs)
    output = attend(
        query,
        key,
        value,
        score_mod=None if softcap is None else _bend(softcap),
        block_mask=mask,
        scale=scale_of(query, kwargs),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


@functools.cache
def _compiled_flex() -> Any:
    """Compile FlexAttention once per process; uncompiled it builds all scores."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@functools.cache
def _bend(softcap: float) -> Any:
    """One function for each bound: a new one at every call would be compiled anew."""

    def bend(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return bend


def _build_mask(table: SegmentTable, device: torch.device, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    count = len(table.lengths)
    related = torch.eye(count, dtype=torch.bool)
    for i in range(count):
        related[i, table.ancestors(i)] = True
    related = related.to(device)
    lengths = torch.tensor(table.lengths)
    segment_T = torch.repeat_interleave(torch.arange(count), lengths).to(device)
    # From a token's place in the batch to its position in its path.
    shift = torch.tensor(path_starts(table)) - torch.tensor(table.starts)
    position_T = (torch.arange(table.total_tokens) + torch.repeat_interleave(shift, lengths)).to(
        device
    )
    causal = table.causal

    def allowed(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = related[segment_T[q], segment_T[k]]
        if causal:
            # Ancestors lie before their descendants, so order in the batch is causal order.
            seen = seen & (k <= q)
        if window is not None:
            seen = seen & ((position_T[q] - position_T[k]).abs() < window)
        return seen

    partial, full = find_blocks(table, window)
    return BlockMask.from_kv_blocks(
        *_list_blocks(partial, device),
        *_list_blocks(full, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=allowed,
        seq_lengths=(table.total_tokens, table.total_tokens),
    )


def _list_blocks(chosen: _Blocks, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has, [1, 1, B], and which first, [1, 1, B, B]."""
    order = np.argsort(~chosen, axis=1, kind="stable")
    counts = torch.from_numpy(chosen.sum(1).astype(np.int32)).to(device)
    return counts[None, None], torch.from_numpy(order.astype(np.int32)).to(device)[None, None]


def find_blocks(table: SegmentTable, window: int | None) -> tuple[_Blocks, _Blocks]:
    """Which blocks of token pairs hold allowed ones, without looking at the pairs.

    Args:
        table: The segments.
        window: Distance in positions from which tokens do not see each other.

    Returns:
        Blocks of which some pairs may be allowed, and those of which all are; each [B, B] bool,
        query blocks first, none in both.
    """
    blocks = -(-table.total_tokens // BLOCK)
    touched: _Blocks = np.zeros((blocks, blocks), dtype=bool)
    pairs: _Blocks = np.zeros((blocks, blocks), dtype=np.int64)
    first = path_starts(table)
    edges: _Blocks = np.arange(blocks) * BLOCK
    for i in range(len(table.lengths)):
        rows, row_from, row_to = _cut(table, i, edges)
        for j in (*table.ancestors(i), i):
            columns, column_from, column_to = _cut(table, j, edges)
            some: _Blocks = np.ones((len(row_from), len(column_from)), dtype=bool)
            whole = some.copy()
            if table.causal and i == j:
                some &= row_to[:, None] > column_from
                whole &= row_from[:, None] >= column_to - 1
            if window is not None:
                # Positions of the nearest and the farthest pair of the two pieces.
                shift = (first[i] - table.starts[i]) - (first[j] - table.starts[j])
                low = row_from[:, None] - (column_to - 1) + shift
                high = (row_to - 1)[:, None] - column_from + shift
                nearest = np.where((low <= 0) & (high >= 0), 0, np.minimum(abs(low), abs(high)))
                some &= nearest < window
                whole &= np.maximum(abs(low), abs(high)) < window
            touched[rows, columns] |= some
            pairs[rows, columns] += whole * np.outer(row_to - row_from, column_to - column_from)
    full = pairs == BLOCK * BLOCK
    return touched & ~full, full


def _cut(table: SegmentTable, segment: int, edges: _Blocks) -> tuple[slice, _Blocks, _Blocks]:
    """The blocks a segment lies in, and where its piece in each begins and ends."""
    start, end = table.starts[segment], table.starts[segment] + table.lengths[segment]
    within = slice(start // BLOCK, -(-end // BLOCK))
    begins = edges[within]
    return within, np.maximum(begins, start), np.minimum(begins + BLOCK, end)
