"""FlexAttention with the segment rule as its block mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posttrain.layout import SegmentTable
from posttrain.models.attention.call import scale_of, segment_table, window_of


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
    name = ("flex", query.device, window)
    if name not in table.plans:
        table.plans[name] = _flex_mask(table, query.device, window)
    attend = flex_attention if query.device.type == "cpu" else _compiled_flex()
    output = attend(
        query,
        key,
        value,
        block_mask=table.plans[name],
        scale=scale_of(query, kwargs),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


_compiled: list[Any] = []


def _compiled_flex() -> Any:
    """Compile FlexAttention once per process; uncompiled it builds all scores."""
    if not _compiled:
        from torch.nn.attention.flex_attention import flex_attention

        _compiled.append(torch.compile(flex_attention, dynamic=True))
    return _compiled[0]


def _flex_mask(table: SegmentTable, device: torch.device, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    count = len(table.lengths)
    related = torch.eye(count, dtype=torch.bool)
    for i in range(count):
        related[i, table.ancestors(i)] = True
    related = related.to(device)
    segment_T = torch.repeat_interleave(torch.arange(count), torch.tensor(table.lengths)).to(device)

    def allowed(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = related[segment_T[q], segment_T[k]]
        if not table.causal:
            return seen if window is None else seen & ((q - k).abs() < window)
        # Ancestors lie before their descendants, so order in the batch is causal order.
        return (k <= q) & seen

    total = table.total_tokens
    return create_block_mask(allowed, None, None, total, total, device=str(device))
