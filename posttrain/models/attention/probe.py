"""Try a back end once before a model relies on it."""

from __future__ import annotations

import functools

import torch

from posttrain.models.attention.problems import PROBLEMS, Problem, relative_errors, solve

TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}
"""Largest relative error that is the number format's own, not a fault."""
# Keys before the queries, grouped heads: what kernels disagree on.
_TREE = PROBLEMS[1]


@functools.cache
def find_error(back_end: str, device: str, dtype: str, head_size: int) -> str | None:
    """Run a back end on a small tree and say what is wrong with it, or None.

    Args:
        back_end: A name, registered.
        device: ``cpu`` or ``cuda``.
        dtype: Of the arithmetic.
        head_size: Of the model's heads.
    """
    problem = Problem("tree", _TREE.lengths, _TREE.parents, key_heads=2, head_size=head_size)
    try:
        found = solve(back_end, problem, device=device, dtype=getattr(torch, dtype))
    except Exception as error:  # kernels fail in as many ways as there are of them
        return f"does not run: {first_line(error)}"
    expected = solve("eager", problem, device=device, dtype=torch.float32)
    worst = max(relative_errors(found, expected))
    if worst <= TOLERANCE[dtype]:
        return None
    return f"computes wrong results here (relative error {worst:.1e})"


def first_line(error: Exception) -> str:
    """What an error says, short enough for a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:90]
