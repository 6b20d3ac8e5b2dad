import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest

from posttrain.evaluation.statistics import (
    adjust_p_values,
    compare_paired,
    compare_texts,
    compare_values,
    detectable_difference,
    problems_needed,
    simultaneous_level,
    wilson_interval,
)
from posttrain.evaluation.statistics.paired import flip_signs, mcnemar_exact, newcombe_interval


def outcomes(both, wins, losses, neither):
    first = [True] * (both + wins) + [False] * (losses + neither)
    second = [True] * both + [False] * wins + [True] * losses + [False] * neither
    return first, second


def test_the_paired_interval_is_the_published_one():
    """Newcombe 1998, Statistics in Medicine 17, 2635-2650, table II, method 10."""
    found = compare_paired(*outcomes(36, 12, 2, 0))
    assert (found.total, found.wins, found.losses) == (50, 12, 2)
    assert found.difference == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_agreement_narrows_the_paired_interval_by_the_corrected_correlation():
    """Worked by hand for 20, 9, 4, 17 of 50, where the models agree more than by chance."""
    found = compare_paired(*outcomes(20, 9, 4, 17))
    (l1, u1), (l2, u2) = wilson_interval(29, 50), wilson_interval(24, 50)
    phi = (20 * 17 - 9 * 4 - 25) / math.sqrt(29 * 21 * 24 * 26)
    assert phi == pytest.approx(0.452588, abs=1e-6)
    low = math.sqrt((0.58 - l1) ** 2 - 2 * phi * (0.58 - l1) * (u2 - 0.48) + (u2 - 0.48) ** 2)
    high = math.sqrt((u1 - 0.58) ** 2 - 2 * phi * (u1 - 0.58) * (0.48 - l2) + (0.48 - l2) ** 2)
    assert found.interval == pytest.approx((0.1 - low, 0.1 + high), abs=1e-12)


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (6, 0, 2 / 64),
        (5, 1, 2 * 7 / 64),
        (8, 2, 2 * 56 / 1024),
        (3, 3, 1.0),
        (12, 2, 2 * 106 / 2**14),
    ],
)
def test_the_exact_mcnemar_test_by_hand(wins, losses, p_value):
    assert compare_paired(*outcomes(4, wins, losses, 4)).p_value == pytest.approx(p_value)
    assert compare_paired(*outcomes(4, losses, wins, 4)).p_value == pytest.approx(p_value)


def test_thousands_of_differences_stay_finite():
    found = compare_paired(*outcomes(0, 4000, 3000, 0))
    assert 0 < found.p_value < 1e-30
    assert math.isfinite(found.interval[0])


def test_swapping_the_models_turns_everything_round():
    first, second = outcomes(20, 9, 4, 17)
    one, other = compare_paired(first, second), compare_paired(second, first)
    assert one.difference == -other.difference
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
    assert one.p_value == other.p_value


@pytest.mark.parametrize("table", [(5, 0, 0, 0), (0, 5, 0, 0), (0, 0, 0, 5), (0, 0, 5, 0)])
def test_extreme_tables_have_intervals_around_their_difference(table):
    found = compare_paired(*outcomes(*table))
    assert -1 <= found.interval[0] <= found.difference <= found.interval[1] <= 1


@pytest.mark.parametrize(("first", "second"), [([], []), ([True], [True, False])])
def test_unequal_or_empty_sides_are_refused(first, second):
    with pytest.raises(ValueError, match="same problems on both sides"):
        compare_paired(first, second)


def test_holm_adjustment_by_hand():
    # Holm 1979: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, none below the one before.
    assert adjust_p_values([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert adjust_p_values([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert adjust_p_values([0.3]) == [0.3]


def test_mcnemar_and_holm_are_those_of_statsmodels():
    for wins, losses in [(0, 1), (7, 2), (30, 51), (400, 330)]:
        theirs = mcnemar([[9, wins], [losses, 9]], exact=True).pvalue
        assert mcnemar_exact(wins, losses) == pytest.approx(theirs)
    values = list(np.random.default_rng(0).beta(0.3, 1, size=12))
    assert adjust_p_values(values) == pytest.approx(list(multipletests(values, method="holm")[1]))


def test_a_difference_that_an_unpaired_test_misses_is_found():
    """Alike in most of their answers, as checkpoints of one run are: p 0.080 and 0.008."""
    first, second = outcomes(570, 111, 74, 245)
    unpaired = proportions_ztest([sum(first), sum(second)], [1000, 1000])[1]
    found = compare_paired(first, second)
    assert unpaired == pytest.approx(0.080, abs=0.001)
    assert found.p_value == pytest.approx(0.008, abs=0.0005)
    assert found.interval[0] > 0
    assert found.bootstrap_interval == pytest.approx(found.interval, abs=0.002)


def test_signs_flipped_of_single_answers_are_the_exact_mcnemar_test():
    for wins, losses in [(0, 0), (5, 1), (9, 3)]:  # all assignments
        marks = [1.0] * wins + [-1.0] * losses + [0.0] * 20
        assert flip_signs(marks) == pytest.approx(mcnemar_exact(wins, losses))
    drawn = flip_signs([1.0] * 40 + [-1.0] * 25)
    assert drawn == pytest.approx(mcnemar_exact(40, 25), abs=0.01)


def test_drawn_signs_never_prove_beyond_their_number():
    assert flip_signs([1.0 + n / 100 for n in range(60)]) == 1 / 20_000


def test_the_paired_t_test_and_flipped_signs_agree_where_both_hold():
    differences = np.random.default_rng(1).normal(0.1, 1, size=400)
    theirs = stats.ttest_1samp(differences, 0).pvalue
    assert flip_signs(differences) == pytest.approx(theirs, abs=0.01)
    found = compare_values(differences, [0.0] * 400)
    interval = stats.ttest_1samp(differences, 0).confidence_interval()
    assert found.interval == pytest.approx(tuple(interval), abs=0.01)


def test_problems_of_one_passage_count_as_one():
    """Twenty copies of the same twelve differences say no more than the twelve."""
    differences = [0.5, -0.25, 0.25, 0.5, 0.0, 0.75, -0.5, 0.25, 0.5, 0.25, -0.25, 0.5]
    clusters = [f"passage {n}" for n in range(12) for _ in range(20)]
    copied = [d for d in differences for _ in range(20)]
    once = compare_values(differences, [0.0] * 12)
    found = compare_values(copied, [0.0] * 240, clusters=clusters)
    assert found.interval == pytest.approx(once.interval)
    assert (found.p_value, found.detectable) == pytest.approx((once.p_value, once.detectable))
    assert (found.total, found.clusters, once.clusters) == (240, 12, None)
    blind = compare_values(copied, [0.0] * 240)
    assert blind.interval[1] - blind.interval[0] < 0.3 * (found.interval[1] - found.interval[0])


def test_models_that_never_differed_may_differ_all_the_same():
    found = compare_values([0.5, 0.0, 1.0] * 8, [0.5, 0.0, 1.0] * 8)
    unseen = wilson_interval(0, 24)[1]
    assert found.interval == pytest.approx((-unseen, unseen))
    assert found.bootstrap_interval == (0.0, 0.0)
    assert compare_values([1.0] * 9, [0.0] * 9).interval == pytest.approx(
        (1 - wilson_interval(0, 9)[1], 1.0)
    )


def test_few_clusters_can_show_nothing():
    found = compare_values([1.0] * 50, [0.0] * 50, clusters=["abcde"[n % 5] for n in range(50)])
    assert found.p_value == 2 / 32
    assert found.detectable is None


def test_what_can_be_detected_stands_beside_a_comparison():
    found = compare_paired(*outcomes(20, 9, 4, 17))
    assert found.detectable == detectable_difference(50, 13 / 50)
    assert found.needed == problems_needed(5 / 50, 13 / 50)
    same = compare_paired(*outcomes(20, 0, 0, 17))
    assert (same.needed, same.p_value) == (None, 1)


def test_a_higher_level_widens_every_interval_and_what_is_detectable():
    marks = outcomes(200, 40, 20, 60)
    for compare in (compare_paired, compare_values):
        plain, wide = compare(*marks), compare(*marks, level=simultaneous_level(5))
        assert wide.level == pytest.approx(0.99)
        assert wide.interval[0] < plain.interval[0] < plain.interval[1] < wide.interval[1]
        assert wide.detectable > plain.detectable
        assert wide.p_value == plain.p_value


def test_texts_are_better_with_fewer_bits():
    found = compare_texts([-0.1, -0.2, 0.05], [100, 100, 100])
    assert (found.wins, found.losses, found.test) == (2, 1, "t")
    assert found.needed == math.ceil(3 * (found.detectable / found.difference) ** 2)
    assert compare_texts([0.1], [100]).detectable is None


@pytest.mark.parametrize("shares", [(0.5, 0.1, 0.1), (0.7, 0.15, 0.1), (0.2, 0.03, 0.03)])
@pytest.mark.parametrize("total", [100, 500])
def test_the_paired_interval_covers_the_truth_19_times_in_20(shares, total):
    both, wins, losses = shares
    draw = np.random.default_rng(3)
    tables = draw.multinomial(total, [both, wins, losses, 1 - sum(shares)], size=4000)
    bounds = np.array([newcombe_interval(*map(int, t[:3]), total) for t in tables])
    truth = wins - losses
    covered = np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1]))
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("uneven", [10, 30, 200])
def test_mcnemar_errs_at_most_once_in_20(uneven):
    chances = stats.binom.pmf(np.arange(uneven + 1), uneven, 0.5)
    found = [mcnemar_exact(n, uneven - n) < 0.05 for n in range(uneven + 1)]
    assert 0.015 < chances @ found <= 0.05


def clustered_differences(draw, clusters, members, *, shift=0.0):
    """Mean differences of 4 samples a side, alike within their cluster."""
    difficulty = draw.normal(size=(clusters, 1))
    taste = draw.normal(size=(2, clusters, 1))  # what a model makes of a passage
    own = draw.normal(size=(clusters, members))
    shares = 1 / (1 + np.exp(-(difficulty + taste + own + np.array([shift, 0])[:, None, None])))
    first, second = draw.binomial(4, shares) / 4
    return first.ravel(), second.ravel()


def test_flipped_signs_err_at_most_once_in_20_with_clusters():
    draw = np.random.default_rng(5)
    found = []
    for _ in range(1000):
        first, second = clustered_differences(draw, 40, 5)
        found.append(flip_signs((first - second).reshape(40, 5).sum(axis=1)) < 0.05)
    # 0.05 and two standard errors of so many tries.
    assert 0.03 < np.mean(found) <= 0.064


def test_holm_errs_anywhere_at_most_once_in_20():
    draw = np.random.default_rng(6)
    marks = draw.binomial(60, 0.5, size=(2000, 4))
    adjusted = [adjust_p_values([mcnemar_exact(int(w), 60 - int(w)) for w in r]) for r in marks]
    assert np.mean([min(row) < 0.05 for row in adjusted]) <= 0.05
