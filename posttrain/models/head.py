"""Log-probabilities of chosen tokens without ever holding all logits.

Letters: N scored tokens, C of them in a chunk, E hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits of one chunk, in elements: 16 Mi of fp32 are 64 MiB.
_CHUNK_ELEMENTS = 16 * 2**20


class _TokenScores(torch.autograd.Function):
    """Forward and backward in chunks; products in the input's dtype, log-sum-exp in fp32."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NE: Tensor, weight_VE: Tensor, bias_V: Tensor | None, targets_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = len(targets_N)
        logprobs_N = torch.empty(count, device=hidden_NE.device, dtype=torch.float32)
        entropy_N = torch.empty_like(logprobs_N)
        correct_N = torch.empty_like(logprobs_N)
        for rows in _chunks(count, len(weight_VE)):
            logits_CV = _logits(hidden_NE[rows], weight_VE, bias_V)
            targets_C = targets_N[rows]
            correct_N[rows] = (logits_CV.argmax(-1) == targets_C).float()
            logp_CV = logits_CV.log_softmax(-1)
            logprobs_N[rows] = logp_CV.gather(-1, targets_C[:, None])[:, 0]
            entropy_N[rows] = -(logp_CV.exp() * logp_CV).sum(-1)
        ctx.save_for_backward(hidden_NE, weight_VE, bias_V, targets_N)
        ctx.mark_non_differentiable(entropy_N, correct_N)
        return logprobs_N, entropy_N, correct_N

    @staticmethod
    def backward(
        ctx: Any, grad_N: Tensor, *unused: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden_NE, weight_VE, bias_V, targets_N = ctx.saved_tensors
        need_hidden, need_weight, need_bias, _ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden_NE) if need_hidden else None
        grad_weight = torch.zeros_like(weight_VE, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias_V) if need_bias else None
        for rows in _chunks(len(targets_N), len(weight_VE)):
            # d logp(target) / d logits = onehot(target) - softmax
            softmax_CV = _logits(hidden_NE[rows], weight_VE, bias_V).softmax(-1)
            grad_CV = softmax_CV.mul_(-grad_N[rows, None])
            grad_CV.scatter_add_(1, targets_N[rows, None], grad_N[rows, None])
            if grad_bias is not None:
                grad_bias += grad_CV.sum(0)
            grad_CV = grad_CV.to(hidden_NE.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_CV @ weight_VE.to(hidden_NE.dtype)
            if grad_weight is not None:
                grad_weight += (grad_CV.T @ hidden_NE[rows]).float()
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight_VE.dtype)
        return grad_hidden, grad_weight, grad_bias, None


def _chunks(count: int, vocabulary: int) -> list[slice]:
    size = max(1, _CHUNK_ELEMENTS // vocabulary)
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def _logits(hidden_CE: Tensor, weight_VE: Tensor, bias_V: Tensor | None) -> Tensor:
    logits_CV = (hidden_CE @ weight_VE.to(hidden_CE.dtype).T).float()
    return logits_CV if bias_V is None else logits_CV + bias_V


def score_tokens(
    hidden_NE: Tensor, weight_VE: Tensor, bias_V: Tensor | None, targets_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Score targets under the output layer.

    Args:
        hidden_NE: Final hidden states, [N, E]; under autocast they are cast to its dtype.
        weight_VE: Output weight, [V, E].
        bias_V: Output bias, [V], or none.
        targets_N: Token ids, [N].

    Returns:
        Log-probability of each target (nats, differentiable), entropy of each distribution
        (nats), and whether the target is the most likely token (1.0 or 0.0); each [N] float32.
    """
    device = hidden_NE.device.type
    if torch.is_autocast_enabled(device):
        hidden_NE = hidden_NE.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        scores: tuple[Tensor, Tensor, Tensor] = _TokenScores.apply(
            hidden_NE, weight_VE, bias_V, targets_N
        )
    return scores
