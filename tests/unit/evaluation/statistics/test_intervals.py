import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from posttrain.evaluation.statistics import (
    bootstrap_interval,
    estimate_ratio,
    estimate_share,
    sum_clusters,
    wilson_interval,
)


def test_wilson_gives_the_published_interval():
    """Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@pytest.mark.parametrize("total", [1, 7, 1319])
def test_intervals_stay_within_0_and_1_and_mirror_each_other(total):
    for correct in {0, 1, total // 2, total}:
        low, high = wilson_interval(correct, total)
        assert 0 <= low <= correct / total <= high <= 1
        mirrored = wilson_interval(total - correct, total)
        assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(correct, total):
    with pytest.raises(ValueError, match="is not a share"):
        wilson_interval(correct, total)


def test_a_ratio_of_equal_sizes_is_the_mean_with_its_t_interval():
    """Worked by hand: mean 3, standard deviation 1, 3 items."""
    found = estimate_ratio([4.0, 6.0, 8.0], [2.0, 2.0, 2.0])
    assert found.value == 3
    half = 4.30265 / math.sqrt(3)
    assert found.interval == pytest.approx((3 - half, 3 + half), abs=1e-4)


def test_items_of_one_ratio_have_no_spread_whatever_their_sizes():
    found = estimate_ratio([1.0, 2.0, 7.0], [2.0, 4.0, 14.0])
    assert found.interval == pytest.approx((0.5, 0.5))
    same = estimate_ratio([0.0, 0.0], [2.0, 4.0])
    assert (same.value, same.p_value) == (0, 1)


def test_a_sample_of_one_has_no_interval():
    found = estimate_ratio([3.0], [2.0])
    assert (found.value, found.interval, found.p_value) == (1.5, None, None)


@pytest.mark.parametrize(("totals", "sizes"), [([], []), ([1.0], [0.0]), ([1.0], [1.0, 2.0])])
def test_impossible_ratios_are_refused(totals, sizes):
    with pytest.raises(ValueError, match="a positive size per item"):
        estimate_ratio(totals, sizes)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_is_that_of_statsmodels(level):
    for correct, total in [(0, 9), (3, 7), (812, 1319), (1319, 1319)]:
        theirs = proportion_confint(correct, total, alpha=1 - level, method="wilson")
        assert wilson_interval(correct, total, level) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("total", [50, 200, 1319])
def test_wilson_covers_the_truth_19_times_in_20(total):
    """Exactly: over every count, for models between 5 % and 95 %."""
    bounds = np.array([wilson_interval(n, total) for n in range(total + 1)])
    covered = []
    for truth in np.linspace(0.05, 0.95, 91):
        inside = (bounds[:, 0] <= truth) & (truth <= bounds[:, 1])
        covered.append(stats.binom.pmf(np.arange(total + 1), total, truth) @ inside)
    assert 0.93 <= np.mean(covered) <= 0.97
    assert np.quantile(covered, 0.05) >= 0.93


def test_clusters_are_added_up_in_order():
    totals, sizes = sum_clusters([1.0, 0.0, 1.0, 1.0], ["a", None, "a", None])
    assert (totals, sizes) == ([2.0, 0.0, 1.0], [2, 1, 1])
    assert sum_clusters([0.5, 1.0], None) == ([0.5, 1.0], [1, 1])


def test_the_clustered_error_is_that_of_statsmodels():
    draw = np.random.default_rng(2)
    clusters = np.repeat(np.arange(30), draw.integers(1, 8, size=30))
    values = (draw.normal(size=30)[clusters] + draw.normal(size=len(clusters)) > 0).astype(float)
    model = sm.OLS(values, np.ones(len(values)))
    theirs = model.fit(cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False})
    found = estimate_share(list(values), clusters=[str(c) for c in clusters])
    # Theirs lacks the factor for few clusters, or has one for regressions.
    assert found.standard_error == pytest.approx(theirs.bse[0] * math.sqrt(30 / 29))
    assert found.value == pytest.approx(values.mean())


def test_independent_answers_have_wilsons_interval_and_others_a_wider_one():
    marks = [1.0] * 30 + [0.0] * 20
    assert estimate_share(marks).interval == wilson_interval(30, 50)
    assert estimate_share(marks, clusters=list(range(50))).interval == wilson_interval(30, 50)
    pairs = estimate_share(marks, clusters=[str(n // 2) for n in range(50)])
    wilson = wilson_interval(30, 50)
    assert pairs.interval[0] < wilson[0]
    assert wilson[1] < pairs.interval[1]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_clusters_that_are_all_right_count_once_each(value):
    found = estimate_share([value] * 40, clusters=[str(n // 4) for n in range(40)])
    critical = stats.t.ppf(0.975, 9)
    open_end = critical**2 / (10 + critical**2)
    bounds = (0, open_end) if value == 0 else (1 - open_end, 1)
    assert found.interval == pytest.approx(bounds, abs=1e-6)
    single = estimate_share([value] * 40, clusters=["one"] * 40)
    assert single.interval == wilson_interval(int(value), 1)


def test_samples_that_agree_count_for_no_more_than_there_are():
    found = estimate_share([0.5] * 30, samples=60)
    half = (found.interval[1] - found.interval[0]) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, 29) * math.sqrt(0.25 / 60), rel=0.05)


@pytest.mark.parametrize("values", [[], [1.2], [-0.1, 0.5]])
def test_values_that_are_no_shares_are_refused(values):
    with pytest.raises(ValueError, match="between 0 and 1"):
        estimate_share(values)


def test_the_bootstrap_is_seeded_and_close_to_scipys():
    values = np.random.default_rng(4).gamma(2.0, size=200)
    found = bootstrap_interval(values, np.ones(200))
    assert found == bootstrap_interval(values, np.ones(200))
    assert found != bootstrap_interval(values, np.ones(200), seed=1)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    assert found == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert bootstrap_interval([1.0], [1.0]) is None


def test_few_kinds_of_values_are_drawn_like_many():
    marks = np.repeat([1.0, 0.0, -1.0], [60, 100, 40])
    few = bootstrap_interval(marks, np.ones(200))
    nearly = marks + np.random.default_rng(0).normal(scale=1e-6, size=200)
    assert few == pytest.approx(bootstrap_interval(nearly, np.ones(200)), abs=0.006)


def drawn_clusters(draw, clusters):
    """Right answers to questions about passages of 1 to 7 questions, alike within a passage."""
    sizes = draw.integers(1, 8, size=clusters)
    names = np.repeat(np.arange(clusters), sizes)
    chance = 1 / (1 + np.exp(-(0.8 + draw.normal(scale=1.2, size=clusters))))
    return (draw.random(len(names)) < chance[names]).astype(float), names


def test_clustered_shares_cover_the_truth_19_times_in_20():
    draw = np.random.default_rng(7)
    truth = np.mean(1 / (1 + np.exp(-(0.8 + draw.normal(scale=1.2, size=10**6)))))
    covered, blind = [], []
    for _ in range(1000):
        values, names = drawn_clusters(draw, 40)
        low, high = estimate_share(values.tolist(), clusters=names.tolist()).interval
        covered.append(low <= truth <= high)
        low, high = wilson_interval(int(values.sum()), len(values))
        blind.append(low <= truth <= high)
    assert 0.93 <= np.mean(covered) <= 0.97
    assert np.mean(blind) < 0.9  # what the clusters are for


def test_means_of_samples_cover_the_truth_19_times_in_20():
    draw = np.random.default_rng(8)
    covered = []
    for _ in range(1000):
        values = draw.binomial(4, draw.beta(1.5, 0.7, size=100)) / 4
        low, high = estimate_share(values.tolist(), samples=400).interval
        covered.append(low <= 1.5 / 2.2 <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("clusters", [12, 60])
def test_the_bootstrap_covers_the_truth_19_times_in_20(clusters):
    draw = np.random.default_rng(9)
    covered = []
    for _ in range(800):
        sizes = draw.integers(1, 6, size=clusters)
        shift = draw.normal(scale=0.3, size=clusters)
        totals = sizes * (0.1 + shift) + draw.normal(scale=0.4 * np.sqrt(sizes))
        low, high = bootstrap_interval(totals, sizes, draws=800)
        covered.append(low <= 0.1 <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_ratios_cover_the_truth_19_times_in_20():
    """Nats per token of 30 documents of very different lengths."""
    draw = np.random.default_rng(10)
    covered = []
    for _ in range(2000):
        sizes = draw.lognormal(4, 0.6, size=30)
        totals = sizes * draw.normal(2.0, 0.4, size=30)
        low, high = estimate_ratio(totals.tolist(), sizes.tolist()).interval
        covered.append(low <= 2.0 <= high)
    assert 0.93 <= np.mean(covered) <= 0.97
