"""Packed attention on a CPU: torch's flash kernel on every tile of the rule, where it lies.

Who sees whom is cut into tiles, a range of queries and a range of keys: segments with themselves,
descendants with an ancestor. Results of tiles that share queries are joined by their log-sum-exp.
Nothing is gathered, padded or repeated but segments too short to be worth a call of their own,
which are laid side by side.

Letters: T tokens of the batch, H query heads, K key-value heads, R = H / K, D head size, n segments
of a group, B = K, or n K in a group, Q queries and L keys of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from posttrain.models.attention.tile_kernels import attend, differentiate
from posttrain.models.attention.tile_plan import Group, TilePlan


def attend_tiles(query: Tensor, key: Tensor, value: Tensor, plan: TilePlan, scale: float) -> Tensor:
    """Attend by tiles; differentiable once.

    Args:
        query: [1, H, T, D], on the CPU; under autocast all three are cast to its dtype.
        key: [1, K, T, D].
        value: [1, K, T, D].
        plan: Of the batch.
        scale: What scores are multiplied by.

    Returns:
        [1, T, H, D].
    """
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        attended_THD: Tensor = _Tiles.apply(query[0], key[0], value[0], plan, scale)
    return attended_THD[None]


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_HTD: Tensor,
        key_KTD: Tensor,
        value_KTD: Tensor,
        plan: TilePlan,
        scale: float,
    ) -> Tensor:
        query_KRTD = query_HTD.unflatten(0, (len(key_KTD), -1))
        output_KRTD = _empty_by_token(query_KRTD)
        lse_KRT1 = query_HTD.new_empty((*query_KRTD.shape[:-1], 1), dtype=torch.float32)
        for group in plan.groups:
            query, key, value = (_lay(x, group) for x in (query_KRTD, key_KTD, value_KTD))
            part, lse = attend(query, key, value, causal=True, scale=scale)
            _take(part, group, output_KRTD)
            _take(lse, group, lse_KRT1)
        for tile in plan.tiles:
            queries, keys = tile.queries, tile.keys
            part, lse = attend(
                query_KRTD[:, :, queries],
                key_KTD[:, keys],
                value_KTD[:, keys],
                causal=tile.causal,
                scale=scale,
            )
            _join(output_KRTD[:, :, queries], lse_KRT1[:, :, queries], part, lse, tile.joins)
        ctx.save_for_backward(query_KRTD, key_KTD, value_KTD, output_KRTD, lse_KRT1)
        ctx.plan, ctx.scale = plan, scale
        return output_KRTD.flatten(0, 1).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        *inputs, output_KRTD, lse_KRT1 = ctx.saved_tensors
        grad_KRTD = grad_THD.unflatten(1, output_KRTD.shape[:2]).permute(1, 2, 0, 3)
        found = [_empty_by_token(x) for x in inputs]
        for group in ctx.plan.groups:
            laid = [_lay(x, group) for x in (*inputs, output_KRTD, lse_KRT1)]
            laid.append(_lay(grad_KRTD, group, blank=True))
            parts = differentiate(laid, causal=True, scale=ctx.scale)
            for part, whole in zip(parts, found, strict=True):
                _take(part, group, whole)
        for tile in ctx.plan.tiles:
            ranges = (tile.queries, tile.keys, tile.keys, *(tile.queries,) * 3)
            tensors = (*inputs, output_KRTD, lse_KRT1, grad_KRTD)
            cut = [x[..., r, :] for x, r in zip(tensors, ranges, strict=True)]
            parts = differentiate(cut, causal=tile.causal, scale=ctx.scale)
            for part, whole, where in zip(parts, found, ranges, strict=False):
                there = whole[..., where, :]
                there.add_(part) if tile.joins else there.copy_(part)
        return found[0].flatten(0, 1), found[1], found[2], None, None


def _empty_by_token(like: Tensor) -> Tensor:
    """Make room for [..., T, D] that lies in memory as [T, ..., D], as projections want it."""
    *heads, tokens, size = like.shape
    return like.new_empty(tokens, *heads, size).movedim(0, -2)


def _join(output: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor, joins: bool) -> None:
    """Note a tile's attention; where there is some over other keys, join it to that."""
    if not joins:
        output.copy_(part)
        lse.copy_(part_lse)
        return
    joined = torch.logaddexp(lse, part_lse)
    output.mul_((lse - joined).exp_()).add_(part * (part_lse - joined).exp_())
    lse.copy_(joined)


def _lay(tokens: Tensor, group: Group, *, blank: bool = False) -> Tensor:
    """Gather ranges of [K, (R,) T, D] into [B, (R,) L, D]; filling repeats a token, or is 0."""
    rows = tokens.movedim(-2, 0).index_select(0, group.laid)
    if blank:
        rows.index_fill_(0, group.filling, 0.0)
    return rows.unflatten(0, (group.count, -1)).movedim(1, -2).flatten(0, 1)


def _take(laid: Tensor, group: Group, tokens: Tensor) -> None:
    """Put [B, (R,) L, D] back to where its ranges lie in [K, (R,) T, D]."""
    rows = laid.unflatten(0, (group.count, -1)).movedim(-2, 1).flatten(0, 1)
    tokens.movedim(-2, 0).index_copy_(0, group.tokens, rows.index_select(0, group.kept))
