"""The reference: scores of all token pairs, those not allowed set to minus infinity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

from posttrain.layout import SegmentTable
from posttrain.models.attention.call import (
    dropout_of,
    path_starts,
    scale_of,
    segment_table,
    softcap_of,
    window_of,
)


def attend_dense(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers."""
    table = segment_table(kwargs)
    window = window_of(table, kwargs)
    allowed_TT = table.plan(
        ("eager", query.device, window), lambda: dense_mask(table, window).to(query.device)
    )
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = ((query @ key.transpose(-1, -2)) * scale_of(query, kwargs)).float()
    if (softcap := softcap_of(kwargs)) is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~allowed_TT, float("-inf"))
    weights = dropout(scores.softmax(-1), dropout_of(module, kwargs))
    output = weights.to(value.dtype) @ value
    return output.transpose(1, 2).contiguous(), None


def dense_mask(table: SegmentTable, window: int | None = None) -> Tensor:
    """Which token may see which, [T, T] bool, by the definition of the layout.

    Args:
        table: The segments.
        window: Distance in positions from which tokens do not see each other.
    """
    total = table.total_tokens
    allowed = torch.zeros(total, total, dtype=torch.bool)
    positions = torch.empty(total, dtype=torch.long)
    first = path_starts(table)
    for i, (start, length) in enumerate(zip(table.starts, table.lengths, strict=True)):
        rows = slice(start, start + length)
        positions[rows] = torch.arange(first[i], first[i] + length)
        own = torch.ones(length, length, dtype=torch.bool)
        allowed[rows, rows] = own.tril() if table.causal else own
        for ancestor in table.ancestors(i):
            begin = table.starts[ancestor]
            allowed[rows, begin : begin + table.lengths[ancestor]] = True
    if window is not None:
        allowed &= (positions[:, None] - positions).abs() < window
    return allowed
