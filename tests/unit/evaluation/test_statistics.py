import math

import pytest

from posttrain.evaluation.statistics import (
    adjust_p_values,
    compare_paired,
    estimate_ratio,
    student_p_value,
    student_quantile,
    wilson_interval,
)


def outcomes(both, wins, losses, neither):
    first = [True] * (both + wins) + [False] * (losses + neither)
    second = [True] * both + [False] * wins + [True] * losses + [False] * neither
    return first, second


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


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (10, 2.2281), (29, 2.0452),
     (100, 1.9840), (9_999, 1.9602), (1_000_000, 1.9600)],
)  # fmt: skip
def test_students_quantiles_are_the_tabled_ones(freedom, quantile):
    """Fisher and Yates, Statistical Tables, table III, 5 %."""
    assert student_quantile(freedom) == pytest.approx(quantile, abs=6e-5)
    assert student_p_value(quantile, freedom) == pytest.approx(0.05, abs=2e-5)


def test_p_values_fall_with_the_statistic_and_forget_its_sign():
    values = [student_p_value(t / 4, 7) for t in range(40)]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert student_p_value(-2.0, 7) == student_p_value(2.0, 7)


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


def test_holm_adjustment_by_hand():
    # Holm 1979: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, none below the one before.
    assert adjust_p_values([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert adjust_p_values([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert adjust_p_values([0.3]) == [0.3]
