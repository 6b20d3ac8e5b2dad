"""Which of several evaluations is the best one, where the paired tests can say so at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from posttrain.evaluation.comparisons import Answered, find_better
from posttrain.evaluation.statistics import adjust_p_values


def find_leader(sides: Sequence[Mapping[str, Answered]], *, below: float) -> int | None:
    """Find the evaluation that is better than every other one.

    Which one that may be is not known beforehand, so every pair is tested, and p values are raised
    for the number of all pairs (Holm).

    Args:
        sides: Answers by name of the problem, one mapping per evaluation, two at least; all have
            the same names.
        below: Largest adjusted p value that is taken for a difference.

    Returns:
        Its place; None where no evaluation is shown to be better than all others.
    """
    names = list(sides[0])
    pairs = list(combinations(range(len(sides)), 2))
    better: list[tuple[int, int]] = []
    p_values: list[float | None] = []
    for first, second in pairs:
        is_first, p_value = find_better([(sides[first][n], sides[second][n]) for n in names])
        better.append((first, second) if is_first else (second, first))
        p_values.append(p_value)
    shown = {
        pair
        for pair, p_value in zip(better, adjust_p_values(p_values), strict=True)
        if p_value is not None and p_value < below
    }
    for place in range(len(sides)):
        if all((place, other) in shown for other in range(len(sides)) if other != place):
            return place
    return None
