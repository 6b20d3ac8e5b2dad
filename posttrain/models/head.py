"""Log-probabilities of chosen tokens without ever holding all logits.

Letters: N scored tokens, C of them in a chunk, E hidden size, V vocabulary, R rank of an adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.autograd.function import once_differentiable

# Logits of one chunk: 4 Mi of fp32 are 16 MiB, which caches hold; rows enough that a product with
# a large vocabulary does not only wait for its weights.
_CHUNK_ELEMENTS = 4 * 2**20
_CHUNK_ROWS = 256
# Vocabulary rows whose gradient is added up at once where the sum is of a wider number format.
_WIDENED_ROWS = 8192


@dataclass(frozen=True)
class OutputLayer:
    """How hidden states become logits: ``cap * tanh(x * scale / cap)`` of the product's x."""

    weight_VE: Tensor
    bias_V: Tensor | None = None
    lowered_NR: Tensor | None = None
    """Hidden states through the first matrix of an adapter, its scale included."""
    raise_VR: Tensor | None = None
    """The adapter's second matrix."""
    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0
    """What the logits are divided by at last."""


class _Form(NamedTuple):
    """What is done to a product before it is a logit."""

    scale: float
    cap: float | None
    temperature: float

    def apply(self, product_CV: Tensor) -> Tensor:
        """Turn products into logits in place."""
        if self.cap is not None:
            return product_CV.mul_(self.scale / self.cap).tanh_().mul_(self.cap / self.temperature)
        factor = self.scale / self.temperature
        return product_CV if factor == 1.0 else product_CV.mul_(factor)

    def differentiate(self, grad_CV: Tensor, logits_CV: Tensor) -> Tensor:
        """Turn gradients of logits into those of products in place; logits are used up."""
        if self.cap is None:
            factor = self.scale / self.temperature
            return grad_CV if factor == 1.0 else grad_CV.mul_(factor)
        slope_CV = logits_CV.mul_(self.temperature / self.cap).square_().neg_().add_(1.0)
        return grad_CV.mul_(slope_CV).mul_(self.scale / self.temperature)


class _Work:
    """One call's tensors in the number format of its products, and room for a chunk's logits."""

    def __init__(self, form: _Form, tensors: tuple[Tensor | None, ...]) -> None:
        self.form = form
        hidden_NE, weight_VE, self.bias_V, lowered_NR, raise_VR = tensors
        assert hidden_NE is not None
        assert weight_VE is not None
        dtype = hidden_NE.dtype
        self.hidden_NE, self.weight_VE = hidden_NE, weight_VE.to(dtype)
        self.lowered_NR = None if lowered_NR is None else lowered_NR.to(dtype)
        self.raise_VR = None if raise_VR is None else raise_VR.to(dtype)
        rows = min(max(_CHUNK_ELEMENTS // len(weight_VE), _CHUNK_ROWS), max(len(hidden_NE), 1))
        self.chunks = [
            slice(i, min(i + rows, len(hidden_NE))) for i in range(0, len(hidden_NE), rows)
        ]
        # Made once: room that is asked for anew for every chunk is zeroed by the system each time.
        self._room = hidden_NE.new_empty(rows if self.chunks else 0, len(weight_VE))

    def logits(self, rows: slice) -> Tensor:
        """Compute a chunk's logits, [C, V] fp32; the next call writes over them."""
        product = self._room[: rows.stop - rows.start]
        torch.mm(self.hidden_NE[rows], self.weight_VE.T, out=product)
        if self.lowered_NR is not None and self.raise_VR is not None:
            product.addmm_(self.lowered_NR[rows], self.raise_VR.T)
        logits_CV = product.float()
        if self.bias_V is not None:
            logits_CV.add_(self.bias_V)
        return self.form.apply(logits_CV)


class _Gradients:
    """Gradients of a call's inputs, added up chunk by chunk."""

    def __init__(self, work: _Work, tensors: tuple[Tensor | None, ...], wanted: list[bool]) -> None:
        self.work = work
        self.like = tensors
        sums = (False, True, True, False, True)
        self.found = [
            torch.zeros_like(t, dtype=torch.float32 if of_rows else work.hidden_NE.dtype)
            if t is not None and want
            else None
            for t, want, of_rows in zip(tensors, wanted, sums, strict=True)
        ]

    def add(self, rows: slice, grad_CV: Tensor) -> None:
        """Take in the gradient of a chunk's products."""
        work, (hidden, weight, bias, lowered, raised) = self.work, self.found
        if bias is not None:
            bias += grad_CV.sum(0)
        grad_CV = grad_CV.to(work.hidden_NE.dtype)
        if hidden is not None:
            torch.mm(grad_CV, work.weight_VE, out=hidden[rows])
        if weight is not None:
            _add_product(weight, grad_CV, work.hidden_NE[rows])
        if work.lowered_NR is not None and work.raise_VR is not None:
            if lowered is not None:
                torch.mm(grad_CV, work.raise_VR, out=lowered[rows])
            if raised is not None:
                _add_product(raised, grad_CV, work.lowered_NR[rows])

    def cast(self) -> tuple[Tensor | None, ...]:
        """Return them in the number formats of their inputs."""
        return tuple(
            None if grad is None or t is None else grad.to(t.dtype)
            for grad, t in zip(self.found, self.like, strict=True)
        )


def _add_product(total_VX: Tensor, grad_CV: Tensor, input_CX: Tensor) -> None:
    if grad_CV.dtype == total_VX.dtype:
        total_VX.addmm_(grad_CV.T, input_CX)
        return
    for start in range(0, len(total_VX), _WIDENED_ROWS):
        some = slice(start, start + _WIDENED_ROWS)
        total_VX[some] += grad_CV[:, some].T @ input_CX


class _TokenScores(torch.autograd.Function):
    """Forward and backward in chunks; products in the input's dtype, log-sum-exp in fp32."""

    @staticmethod
    def forward(
        ctx: Any, targets_N: Tensor, upstream_N: Tensor | None, form: _Form, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        work = _Work(form, tensors)
        logprobs_N = torch.empty(len(targets_N), device=targets_N.device, dtype=torch.float32)
        entropy_N, correct_N, lse_N = (torch.empty_like(logprobs_N) for _ in range(3))
        wanted = list(ctx.needs_input_grad[3:])
        grads = _Gradients(work, tensors, wanted) if upstream_N is not None else None
        room = torch.empty_like(work._room, dtype=torch.float32)
        for rows in work.chunks:
            logits_CV = work.logits(rows)
            targets_C1 = targets_N[rows, None]
            chosen_C1, top_C1 = logits_CV.gather(1, targets_C1), logits_CV.amax(1, keepdim=True)
            correct_N[rows] = _is_first(logits_CV, targets_C1, chosen_C1 == top_C1)
            logits_CV.sub_(top_C1)
            share_CV = torch.exp(logits_CV, out=room[: len(logits_CV)])
            total_C = share_CV.sum(1)
            lse_N[rows] = total_C.log() + top_C1[:, 0]
            logprobs_N[rows] = chosen_C1[:, 0] - lse_N[rows]
            mean_C = torch.bmm(share_CV[:, None], logits_CV[:, :, None])[:, 0, 0] / total_C
            entropy_N[rows] = total_C.log() - mean_C
            if grads is not None and upstream_N is not None:
                share_CV.mul_((-upstream_N[rows] / total_C)[:, None])
                share_CV.scatter_add_(1, targets_C1, upstream_N[rows, None])
                logits = logits_CV.add_(top_C1) if form.cap is not None else logits_CV
                grads.add(rows, form.differentiate(share_CV, logits))
        ctx.save_for_backward(targets_N, upstream_N, lse_N, *tensors)
        ctx.form, ctx.grads = form, grads
        ctx.mark_non_differentiable(entropy_N, correct_N)
        return logprobs_N, entropy_N, correct_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        targets_N, upstream_N, lse_N, *inputs = ctx.saved_tensors
        tensors, grads = tuple(inputs), ctx.grads
        ctx.grads = None
        if grads is not None and (factor := _factor(grad_N, upstream_N)) is not None:
            found = grads.cast()
            if factor != 1.0:
                found = tuple(None if g is None else g.mul_(factor) for g in found)
            return (None, None, None, *found)
        del grads  # made for another loss than the one that has come
        work = _Work(ctx.form, tensors)
        made = _Gradients(work, tensors, list(ctx.needs_input_grad[3:]))
        for rows in work.chunks:
            logits_CV = work.logits(rows)
            # d logp(target) / d logits = onehot(target) - softmax
            lse_C1 = lse_N[rows, None]
            below_CV = logits_CV.sub_(lse_C1) if ctx.form.cap is None else logits_CV - lse_C1
            share_CV = below_CV.exp_().mul_(-grad_N[rows, None])
            share_CV.scatter_add_(1, targets_N[rows, None], grad_N[rows, None])
            made.add(rows, ctx.form.differentiate(share_CV, logits_CV))
        return (None, None, None, *made.cast())


def _is_first(logits_CV: Tensor, targets_C1: Tensor, reaches_C1: Tensor) -> Tensor:
    """Whether the target is the first of the largest; searched only where it is one of them."""
    rows = reaches_C1[:, 0].nonzero()[:, 0]
    found_C = torch.zeros(len(logits_CV), device=logits_CV.device)
    found_C[rows] = (logits_CV[rows].argmax(1) == targets_C1[rows, 0]).float()
    return found_C


def _factor(grad_N: Tensor, upstream_N: Tensor) -> float | None:
    """Number by which a gradient is a multiple of the one foreseen; None where it is none."""
    if isinstance(grad_N, FakeTensor):  # `plan` goes through a step on shapes, without numbers
        return 1.0
    # A mean is off by roundings; so much less than that is 1 that no pass over weights is worth it.
    factor = float((grad_N * upstream_N).sum() / upstream_N.square().sum().clamp_min(1e-30))
    if not torch.allclose(grad_N, factor * upstream_N, rtol=1e-5, atol=0.0):
        return None
    return 1.0 if abs(factor - 1.0) < 1e-6 else factor


def score_tokens(
    hidden_NE: Tensor,
    layer: OutputLayer,
    targets_N: Tensor,
    upstream_N: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score targets under the output layer.

    Args:
        hidden_NE: Final hidden states, [N, E]; under autocast they are cast to its dtype.
        layer: What they go through.
        targets_N: Token ids, [N].
        upstream_N: What the loss's derivative by each log-probability will be, up to a common
            factor, where that is known beforehand, [N]: gradients are then made in the same pass.
            Of another loss they come out right too, in a second pass.

    Returns:
        Log-probability of each target (nats, differentiable), entropy of each distribution
        (nats), and whether the target is the most likely token (1.0 or 0.0); each [N] float32.
    """
    device = hidden_NE.device.type
    if torch.is_autocast_enabled(device):
        hidden_NE = hidden_NE.to(torch.get_autocast_dtype(device))
    form = _Form(layer.scale, layer.cap, layer.temperature)
    tensors = (hidden_NE, layer.weight_VE, layer.bias_V, layer.lowered_NR, layer.raise_VR)
    if not torch.is_grad_enabled():
        upstream_N = None
    with torch.autocast(device, enabled=False):
        scores: tuple[Tensor, Tensor, Tensor] = _TokenScores.apply(
            targets_N, upstream_N, form, *tensors
        )
    return scores
