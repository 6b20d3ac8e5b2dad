"""Several samples of each problem: pass@k and majority votes, by unbiased estimators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_MOST_SAMPLES = 1_000


def pass_at_k(right: int, total: int, k: int) -> float:
    """Chance that at least one of ``k`` samples is right, estimated from ``total`` of them.

    Args:
        right: Right samples.
        total: All samples.
        k: 1 to ``total``.

    Returns:
        The share of all choices of ``k`` samples that hold a right one.

    Raises:
        ValueError: The counts are impossible.

    Source:
        Chen et al. 2021, arXiv:2107.03374, Eq. 1.
    """
    if not (0 <= right <= total and 1 <= k <= total):
        raise ValueError(f"pass@{k} of {right} right samples of {total}")
    return 1 - math.comb(total - right, k) / math.comb(total, k)


def majority_at_k(right: int, wrong: Sequence[int], silent: int = 0) -> list[float]:
    """Chance that the most frequent answer of ``k`` samples is right, for every ``k``.

    Exact over all choices of ``k`` samples. Answers that are equally frequent win equally often;
    samples without an answer have no vote, and where no sample has one, none is right.

    Args:
        right: Samples with the right answer.
        wrong: Samples of each wrong answer.
        silent: Samples without an answer.

    Returns:
        The chances for 1, 2, ... as many as there are samples.

    Raises:
        ValueError: There are no samples, a count is negative, or there are more than 1,000.

    Source:
        Votes: Wang et al. 2022, arXiv:2203.11171. Choices: as in pass@k.
    """
    if min([right, silent, *wrong]) < 0 or not 0 < right + sum(wrong) + silent <= _MOST_SAMPLES:
        raise ValueError("a vote needs between 1 and 1,000 samples")
    return list(_count_votes(right, tuple(sorted(count for count in wrong if count)), silent))


@cache
def _count_votes(right: int, wrong: tuple[int, ...], silent: int) -> tuple[float, ...]:
    import numpy as np

    total = right + sum(wrong) + silent
    won = np.zeros(total + 1)
    for votes in range(1, right + 1):
        others = _count_others(votes, wrong, silent)
        won[votes : votes + len(others)] += math.comb(right, votes) * others
    return tuple(float(won[k]) / math.comb(total, k) for k in range(1, total + 1))


def _count_others(votes: int, wrong: tuple[int, ...], silent: int) -> np.ndarray:
    """Ways to choose samples that are not right and do not win over ``votes``, by how many.

    A way in which n answers have as many votes counts 1 / (n + 1): so often the right one wins.
    """
    import numpy as np

    # What cannot have so many votes need not be told apart.
    harmless = silent + sum(count for count in wrong if count < votes)
    ways = np.array([[float(math.comb(harmless, n)) for n in range(harmless + 1)]])
    for count in wrong:
        if count < votes:
            continue
        ties, chosen = ways.shape
        after = np.zeros((ties + 1, chosen + votes))
        for n in range(votes):
            after[:ties, n : n + chosen] += math.comb(count, n) * ways
        after[1:, votes:] += math.comb(count, votes) * ways
        ways = after
    return np.asarray((1 / np.arange(1, len(ways) + 1)) @ ways)
