"""The reference: scores of all token pairs, those not allowed set to minus infinity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

from posttrain.layout import SegmentTable
from posttrain.models.attention.call import scale_of, segment_table, window_of


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
    allowed_TT = dense_mask(table, window_of(table, kwargs)).to(query.device)
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = (query @ key.transpose(-1, -2)) * scale_of(query, kwargs)
    scores = scores.float().masked_fill(~allowed_TT, float("-inf"))
    weights = dropout(scores.softmax(-1), kwargs.get("dropout", 0.0), training=module.training)
    output = weights.to(value.dtype) @ value
    return output.transpose(1, 2).contiguous(), None


def dense_mask(table: SegmentTable, window: int | None = None) -> Tensor:
    """Which token may see which, [T, T] bool, by the definition of the layout.

    Args:
        table: The segments.
        window: Distance from which an encoder's tokens do not see each other.
    """
    total = table.total_tokens
    allowed = torch.zeros(total, total, dtype=torch.bool)
    for i, (start, length) in enumerate(zip(table.starts, table.lengths, strict=True)):
        rows = slice(start, start + length)
        own = torch.ones(length, length, dtype=torch.bool)
        if window is not None:
            own = own.tril(window - 1).triu(1 - window)
        allowed[rows, rows] = own.tril() if table.causal else own
        for ancestor in table.ancestors(i):
            begin = table.starts[ancestor]
            allowed[rows, begin : begin + table.lengths[ancestor]] = True
    return allowed
