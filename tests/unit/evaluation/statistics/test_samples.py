import itertools
import math
from collections import Counter

import numpy as np
import pytest

from posttrain.evaluation.statistics import estimate_share, majority_at_k, pass_at_k


def test_pass_at_k_by_hand():
    assert pass_at_k(1, 4, 1) == 1 / 4
    assert pass_at_k(2, 4, 2) == pytest.approx(1 - 1 / 6)
    assert pass_at_k(0, 9, 9) == 0
    assert pass_at_k(1, 9, 9) == pass_at_k(5, 9, 5) == 1


@pytest.mark.parametrize(("right", "total", "k"), [(5, 4, 1), (-1, 4, 1), (1, 4, 5), (1, 4, 0)])
def test_impossible_samples_are_refused(right, total, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(right, total, k)


def test_pass_at_k_is_unbiased():
    """Its mean over sets of samples is the true chance, where the plain way is not."""
    draw, chance, total, k = np.random.default_rng(13), 0.15, 10, 4
    truth = 1 - (1 - chance) ** k
    rights = draw.binomial(total, chance, size=40_000)
    assert np.mean([pass_at_k(int(n), total, k) for n in rights]) == pytest.approx(truth, abs=0.006)
    plain = np.mean(1 - (1 - rights / total) ** k)
    assert abs(plain - truth) > 0.01


def enumerate_votes(right, wrong, silent, k):
    """Every choice of k samples, voted on by hand."""
    names = ["right"] * right + [f"w{n}" for n, w in enumerate(wrong) for _ in range(w)]
    names += [None] * silent
    won, ways = 0.0, 0
    for chosen in itertools.combinations(names, k):
        votes = Counter(name for name in chosen if name is not None)
        most = max(votes.values(), default=0)
        winners = [name for name, count in votes.items() if count == most]
        won += ("right" in winners) / len(winners) if winners else 0
        ways += 1
    return won / ways


@pytest.mark.parametrize(
    ("right", "wrong", "silent"),
    [(3, [2, 2, 1], 1), (4, [4], 0), (1, [1, 1, 1, 1], 3), (0, [3, 2], 1), (5, [], 3), (2, [6], 2)],
)
def test_majority_is_the_mean_over_every_choice(right, wrong, silent):
    total = right + sum(wrong) + silent
    expected = [enumerate_votes(right, wrong, silent, k) for k in range(1, total + 1)]
    assert majority_at_k(right, wrong, silent) == pytest.approx(expected, abs=1e-12)


def test_one_vote_is_the_share_of_right_samples_and_ties_are_fair():
    found = majority_at_k(3, [3, 1], 1)
    assert found[0] == pytest.approx(3 / 8)
    assert found[-1] == pytest.approx(1 / 2)
    assert found[1] == pytest.approx(enumerate_votes(3, [3, 1], 1, 2))


def test_a_hundred_samples_are_exact_and_quick():
    found = majority_at_k(40, [30, 10, 5, 5, 5, 2, 1, 1, 1], 0)
    draw = np.random.default_rng(14)
    names = np.repeat(np.arange(10), [40, 30, 10, 5, 5, 5, 2, 1, 1, 1])
    won = []
    for _ in range(4000):
        counts = np.bincount(draw.permutation(names)[:16], minlength=10)
        won.append((counts[0] == counts.max()) / np.sum(counts == counts.max()))
    assert found[15] == pytest.approx(np.mean(won), abs=0.02)
    assert found[-1] == 1


def test_a_thousand_samples_stay_finite():
    found = majority_at_k(500, [499, 1])
    assert all(math.isfinite(chance) and 0 <= chance <= 1 + 1e-9 for chance in found)


@pytest.mark.parametrize(("right", "wrong"), [(0, []), (-1, [3]), (900, [101])])
def test_impossible_votes_are_refused(right, wrong):
    with pytest.raises(ValueError, match="between 1 and 1,000"):
        majority_at_k(right, wrong)


@pytest.mark.parametrize("measure", ["pass", "majority"])
def test_intervals_over_problems_cover_the_truth_19_times_in_20(measure):
    """100 problems of 8 samples; pass@4 and the vote of 4 between a right and a wrong answer."""
    draw, total, k = np.random.default_rng(15), 8, 4
    shares = draw.beta(0.8, 0.8, size=1_000_000)
    if measure == "pass":
        truth = np.mean(1 - (1 - shares) ** k)
        worth = [pass_at_k(n, total, k) for n in range(total + 1)]
    else:
        wrong = 1 - shares
        truth = np.mean(shares**4 + 4 * shares**3 * wrong + 6 * shares**2 * wrong**2 / 2)
        worth = [majority_at_k(n, [total - n])[k - 1] for n in range(total + 1)]
    covered = []
    for _ in range(1500):
        rights = draw.binomial(total, draw.beta(0.8, 0.8, size=100))
        low, high = estimate_share([worth[n] for n in rights], samples=800).interval
        covered.append(low <= truth <= high)
    assert 0.93 <= np.mean(covered) <= 0.97
