"""Segments of similar length side by side, each group one call of torch's fused kernel.

On a CPU ``tiles`` does it without a copy, but for dropout, windows and bent scores.

Letters: T tokens of the batch, H query heads, K key-value heads, D head size, n segments of a
group, Q and L their query and key lengths, padded to the longest of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention

from posttrain.layout import SegmentTable
from posttrain.models.attention.call import (
    dropout_of,
    scale_of,
    segment_table,
    softcap_of,
    window_of,
)
from posttrain.models.attention.tile_plan import plan_tiles
from posttrain.models.attention.tiles import attend_tiles

# A group's padding inside attention; the rest of the model never sees a padded token.
_PADDING_ALLOWED = 1.25


@dataclass(frozen=True)
class _Group:
    """Segments of similar length, computed in one call."""

    queries: Tensor
    """[n * Q] indices into T; short segments repeat a token, whose result nobody takes."""
    keys: Tensor
    """[n * L]."""
    count: int
    mask: Tensor | None
    """[n, 1, Q, L] bool; None where plain attention, causal or not, is right."""


@dataclass(frozen=True)
class _GroupPlan:
    groups: tuple[_Group, ...]
    gather: Tensor
    """[T]: where in the groups' outputs, laid end to end, each token's result is."""


def attend_groups(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Group by group through torch's fused kernel; no token of one segment meets another's."""
    table = segment_table(kwargs)
    window = window_of(table, kwargs)
    dropout, softcap = dropout_of(module, kwargs), softcap_of(kwargs)
    plain = window is None and not dropout and softcap is None
    if query.device.type == "cpu" and plain and query.shape[-1] == value.shape[-1]:
        tiles = table.plan("tiles", lambda: plan_tiles(table))
        return attend_tiles(query, key, value, tiles, scale_of(query, kwargs)), None
    plan = table.plan(
        ("sdpa", query.device, window), lambda: _plan_groups(table, query.device, window)
    )
    query_THD, key_TKD, value_TKD = (x[0].transpose(0, 1) for x in (query, key, value))
    outputs = []
    for group in plan.groups:
        taken = (
            _take(query_THD, group.queries, group.count),
            _take(key_TKD, group.keys, group.count),
            _take(value_TKD, group.keys, group.count),
        )
        scale, is_causal = scale_of(query, kwargs), table.causal and group.mask is None
        if softcap is not None:
            mask = _causal_square(taken[0]) if is_causal else group.mask
            attended = _attend_bent(taken, mask, scale=scale, softcap=softcap, dropout_p=dropout)
        else:
            attended = scaled_dot_product_attention(
                *taken,
                attn_mask=group.mask,
                dropout_p=dropout,
                is_causal=is_causal,
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined.index_select(0, plan.gather)[None], None


def _attend_bent(
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    *,
    scale: float,
    softcap: float,
    dropout_p: float,
) -> Tensor:
    """Attention whose scores are bent to a bound, which torch's fused kernel cannot."""
    query, key, value = tensors
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = softcap * torch.tanh((query @ key.transpose(-1, -2)).float() * (scale / softcap))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return drop(scores.softmax(-1), dropout_p).to(value.dtype) @ value


def _causal_square(query: Tensor) -> Tensor:
    length = query.shape[2]
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril()


def _take(tokens: Tensor, indices: Tensor, count: int) -> Tensor:
    """Gather [T, heads, D] into [n, heads, length, D]."""
    taken = tokens.index_select(0, indices)
    return taken.view(count, -1, *tokens.shape[1:]).transpose(1, 2)


def _plan_groups(table: SegmentTable, device: torch.device, window: int | None) -> _GroupPlan:
    """Sort segments by kind and length and cut them into groups with little padding."""
    spans = [(i, table.ancestors(i)) for i in range(len(table.lengths))]
    order = sorted(spans, key=lambda s: (bool(s[1]), table.lengths[s[0]], s[0]))
    groups: list[_Group] = []
    gather = torch.empty(table.total_tokens, dtype=torch.long)
    offset = 0
    while order:
        count = _group_size(order, table)
        members, order = order[:count], order[count:]
        group = _build_group(members, table, window)
        width = len(group.queries) // count
        for place, (segment, _) in enumerate(members):
            start, length = table.starts[segment], table.lengths[segment]
            first = offset + place * width
            gather[start : start + length] = torch.arange(first, first + length)
        offset += len(group.queries)
        mask = group.mask.to(device) if group.mask is not None else None
        groups.append(_Group(group.queries.to(device), group.keys.to(device), count, mask))
    return _GroupPlan(tuple(groups), gather.to(device))


def _group_size(order: Sequence[tuple[int, list[int]]], table: SegmentTable) -> int:
    """How many of the next segments to take: same kind, padding within the allowance."""
    is_child = bool(order[0][1])
    real = 0
    for count, (segment, ancestors) in enumerate(order, start=1):
        length = table.lengths[segment]
        real += length
        if bool(ancestors) != is_child or count * length > _PADDING_ALLOWED * real:
            return count - 1
    return len(order)


def _build_group(
    members: Sequence[tuple[int, list[int]]], table: SegmentTable, window: int | None
) -> _Group:
    query_rows, key_rows, past = [], [], []
    for segment, ancestors in members:
        own = torch.arange(table.starts[segment], table.starts[segment] + table.lengths[segment])
        before = [
            torch.arange(table.starts[a], table.starts[a] + table.lengths[a]) for a in ancestors
        ]
        query_rows.append(own)
        key_rows.append(torch.cat([*before, own]))
        past.append(sum(len(b) for b in before))
    queries, keys = _pad_rows(query_rows), _pad_rows(key_rows)
    mask = None
    if not table.causal:
        mask = _bidirectional_mask([len(row) for row in query_rows], window)
    elif any(past) or window is not None:
        mask = _causal_mask([len(row) for row in query_rows], past, keys.shape[1], window)
    return _Group(queries.flatten(), keys.flatten(), len(members), mask)


def _causal_mask(
    lengths: Sequence[int], past: Sequence[int], keys: int, window: int | None
) -> Tensor:
    """Token q of a segment sees its ancestors' tokens and its own up to itself: [n, 1, Q, keys]."""
    # A padded query stands where the last real one is: a row that sees nothing would be NaN.
    q = torch.minimum(torch.arange(max(lengths))[None], torch.tensor(lengths)[:, None] - 1)
    q = (q + torch.tensor(past)[:, None])[:, :, None]
    k = torch.arange(keys)
    allowed = k <= q if window is None else (k <= q) & (q - k < window)
    return allowed[:, None]


def _bidirectional_mask(lengths: Sequence[int], window: int | None) -> Tensor | None:
    """Who sees whom in a group of an encoder's segments, [n, 1, L, L]; None where all see all."""
    longest = max(lengths)
    if window is not None and window >= longest:
        window = None
    if window is None and min(lengths) == longest:
        return None
    k = torch.arange(longest)
    last_n = torch.tensor(lengths)[:, None] - 1
    # A padded query stands where the last real one is: a row that sees nothing would be NaN.
    q = torch.minimum(k[None], last_n)
    allowed = (k <= last_n)[:, None, :]
    if window is not None:
        allowed = allowed & ((q[:, :, None] - k).abs() < window)
    return allowed.expand(-1, longest, -1)[:, None]


def _pad_rows(rows: Sequence[Tensor]) -> Tensor:
    """Stack rows of indices, each filled up with its own last index."""
    width = max(len(row) for row in rows)
    return torch.stack([torch.cat([row, row[-1:].expand(width - len(row))]) for row in rows])
