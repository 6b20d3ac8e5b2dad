"""Attention of one tile on a CPU, forward and backward, by the kernel that is faster.

Letters: B key-value heads, R query heads for each, Q queries, L keys, D head size, C queries of a
block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Queries for which products of matrices are faster backward than torch's flash kernel, and how many
# of them to take at once: a causal tile's later blocks see more keys, and none sees all in vain.
# Measured for fp32 on AVX2 (1.1 to 1.4 times within, as fast outside), for bf16 on AMX, where
# the flash kernel falls back to slow products (up to 9.8 times).
_PRODUCTS = {torch.float32: (range(192, 1536), 128), torch.bfloat16: (range(513), 512)}


def attend(
    query_BRQD: Tensor, key_BLD: Tensor, value_BLD: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend.

    Returns:
        Output [B, R, Q, D], and log-sum-exp of the scaled scores, [B, R, Q, 1] fp32.
    """
    key, value = (_for_every_query_head(x, query_BRQD) for x in (key_BLD, value_BLD))
    output, lse_BRQ = _flash(query_BRQD, key, value, 0.0, causal, scale=scale)
    return output, lse_BRQ[..., None]


def differentiate(
    tensors: Sequence[Tensor], *, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate a tile's part of an attention.

    Args:
        tensors: Queries [B, R, Q, D], keys [B, L, D] and values [B, L, D] of the tile; output
            [B, R, Q, D] and log-sum-exp [B, R, Q, 1] of all tiles of these queries together, so
            that shares of this tile's keys come out right; the output's gradient [B, R, Q, D].
        causal: Whether a query sees keys up to itself.
        scale: What scores are multiplied by.

    Returns:
        The tile's share of the gradients of queries, keys and values.
    """
    query_BRQD, key_BLD, value_BLD, output_BRQD, lse_BRQ1, grad_BRQD = tensors
    lengths, block = _PRODUCTS.get(query_BRQD.dtype, (range(0), 0))
    if query_BRQD.shape[2] in lengths:
        delta_BRQ1 = (grad_BRQD.float() * output_BRQD).sum(-1, keepdim=True)
        tensors = (query_BRQD, key_BLD, value_BLD, lse_BRQ1, delta_BRQ1, grad_BRQD)
        return _differentiate_by_products(tensors, causal=causal, scale=scale, block=block)
    key, value = (_for_every_query_head(x, query_BRQD) for x in (key_BLD, value_BLD))
    grads = _flash_backward(
        grad_BRQD, query_BRQD, key, value, output_BRQD, lse_BRQ1[..., 0], 0.0, causal, scale=scale
    )
    return grads[0], grads[1].sum(1), grads[2].sum(1)


def _for_every_query_head(tokens_BLD: Tensor, query_BRQD: Tensor) -> Tensor:
    """View [B, L, D] as [B, R, L, D]."""
    return tokens_BLD[:, None].expand(-1, query_BRQD.shape[1], -1, -1)


def _differentiate_by_products(
    tensors: Sequence[Tensor], *, causal: bool, scale: float, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    query_BRQD, key_BLD, value_BLD, lse_BRQ1, delta_BRQ1, grad_BRQD = tensors
    heads, repeats, count, size = query_BRQD.shape
    grad_query = torch.empty_like(query_BRQD, memory_format=torch.contiguous_format)
    grad_key, grad_value = (
        torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (key_BLD, value_BLD)
    )
    for start in range(0, count, block):
        rows = slice(start, min(start + block, count))
        keys = slice(0, rows.stop if causal else None)
        query, grad = (x[:, :, rows].reshape(heads, -1, size) for x in (query_BRQD, grad_BRQD))
        key, value = key_BLD[:, keys], value_BLD[:, keys]
        shape = (heads, repeats, rows.stop - start, -1)
        scores = torch.bmm(query, key.transpose(1, 2)).float().view(shape)
        # lse holds the keys of other tiles too: these are shares of all.
        share = torch.add(-lse_BRQ1[:, :, rows], scores, alpha=scale, out=scores).exp_()
        if causal:
            share[..., start:].tril_()
        change = torch.bmm(grad, value.transpose(1, 2)).float().view(shape)
        change = change.sub_(delta_BRQ1[:, :, rows]).mul_(share).flatten(1, 2).to(key.dtype)
        share = share.flatten(1, 2).to(key.dtype)
        grad_value[:, keys].baddbmm_(share.transpose(1, 2), grad)
        grad_key[:, keys].baddbmm_(change.transpose(1, 2), query, alpha=scale)
        grad_query[:, :, rows] = torch.bmm(change, key).mul_(scale).view((*shape[:-1], size))
    return grad_query, grad_key, grad_value
