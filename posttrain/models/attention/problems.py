"""Attention problems of every kind that a batch poses, and what a back end makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from posttrain.layout import SegmentTable
from posttrain.models.attention import registered_name


@dataclass(frozen=True)
class Problem:
    """A batch's segments and the shape of a layer."""

    name: str
    lengths: tuple[int, ...]
    parents: tuple[int, ...]
    heads: int = 4
    key_heads: int = 4
    head_size: int = 64
    causal: bool = True
    window: int | None = None

    def table(self) -> SegmentTable:
        """The segments as a batch has them."""
        starts = tuple(sum(self.lengths[:i]) for i in range(len(self.lengths)))
        return SegmentTable(starts, self.lengths, self.parents, self.causal)


def _roots(*lengths: int) -> dict[str, Any]:
    return {"lengths": lengths, "parents": (-1,) * len(lengths)}


PROBLEMS = (
    Problem("flat batch", **_roots(40, 7, 300, 129, 1)),
    Problem("tree", (40, 32, 8, 48, 5, 200), (-1, 0, 0, -1, 2, 3)),
    Problem("grouped heads", (150, 70, 41, 180, 9), (-1, 0, 0, -1, 2), heads=8, key_heads=2),
    Problem("window", (90, 60, 33, 200), (-1, 0, 1, -1), key_heads=2, window=48),
    Problem("encoder", **_roots(100, 33, 190), causal=False),
    Problem("encoder, window", **_roots(100, 33, 190), causal=False, window=24),
    Problem("head of 128", **_roots(130, 70), head_size=128),
    Problem("long", **_roots(2048), heads=2, key_heads=1),
)
# The reference holds every score of it several times: 1 GiB each.
GPU_PROBLEMS = (
    Problem("training batch", **_roots(*[512] * 8), heads=16, key_heads=8, head_size=128),
)


@dataclass(frozen=True)
class Solution:
    """What a back end makes of a problem."""

    output: Tensor
    gradients: tuple[Tensor, Tensor, Tensor]
    """Of queries, keys and values."""


def solve(back_end: str, problem: Problem, *, device: str, dtype: torch.dtype) -> Solution:
    """Run a back end forward and backward on a problem; the same numbers at every call.

    Args:
        back_end: A name, registered.
        problem: What to compute.
        device: ``cpu`` or ``cuda``.
        dtype: Of the arithmetic; inputs are drawn in bf16, so that every format starts alike.
    """
    inputs, weight = draw(problem, device=device, dtype=dtype)
    output = attend(back_end, problem.table(), inputs, problem.window)
    gradients = torch.autograd.grad((output.float() * weight).sum(), inputs)
    return Solution(output.detach(), gradients)


def draw(
    problem: Problem, *, device: str, dtype: torch.dtype
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Queries, keys and values, [1, heads, T, D], and what the outputs are multiplied by."""
    generator = torch.Generator().manual_seed(0)
    total = sum(problem.lengths)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16()

    query, key, value = (
        normal(1, heads, total, problem.head_size).to(device, dtype).requires_grad_()
        for heads in (problem.heads, problem.key_heads, problem.key_heads)
    )
    weight = normal(1, total, problem.heads, problem.head_size).to(device, torch.float32)
    return (query, key, value), weight


def attend(
    back_end: str,
    table: SegmentTable,
    inputs: tuple[Tensor, Tensor, Tensor],
    window: int | None = None,
) -> Tensor:
    """One call of a back end, as a layer of transformers makes it."""
    function = AttentionInterface()[registered_name(back_end)]
    layer = torch.nn.Module()
    output: Tensor = function(layer, *inputs, None, segments=table, sliding_window=window)[0]
    return output


def relative_errors(found: Solution, expected: Solution) -> tuple[float, float]:
    """Distance of the outputs, and the largest of the gradients, by the size of what is right."""

    def distance(a: Tensor, b: Tensor) -> float:
        return float((a.float() - b.float()).norm() / b.float().norm())

    gradients = zip(found.gradients, expected.gradients, strict=True)
    return distance(found.output, expected.output), max(distance(a, b) for a, b in gradients)
