import math

import numpy as np
import pytest
from scipy import stats

from posttrain.evaluation.statistics import (
    POWER,
    compare_values,
    detectable_difference,
    mcnemar_power,
    problems_needed,
)
from posttrain.evaluation.statistics.paired import flip_signs, mcnemar_exact
from posttrain.evaluation.statistics.power import detectable_by_error


@pytest.mark.parametrize(
    ("total", "discordance", "difference"), [(30, 0.4, 0.25), (12, 1.0, 1.0), (60, 0.2, 0.0)]
)
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_power_is_the_sum_over_every_outcome(total, discordance, difference, level):
    won, expected = (1 + difference / discordance) / 2, 0.0
    for uneven in range(total + 1):
        found = [mcnemar_exact(n, uneven - n) <= 1 - level for n in range(uneven + 1)]
        chances = stats.binom.pmf(np.arange(uneven + 1), uneven, won)
        expected += stats.binom.pmf(uneven, total, discordance) * (chances @ found)
    assert mcnemar_power(total, discordance, difference, level) == pytest.approx(expected)


def test_models_that_never_differ_are_never_told_apart():
    assert mcnemar_power(1000, 0.0, 0.0) == 0
    with pytest.raises(ValueError, match="impossible"):
        mcnemar_power(100, 0.1, 0.2)


@pytest.mark.parametrize(("total", "discordance"), [(100, 0.3), (500, 0.1), (1319, 0.2)])
def test_the_detectable_difference_is_found_4_times_in_5(total, discordance):
    difference = detectable_difference(total, discordance)
    wins = (discordance + difference) / 2
    tables = np.random.default_rng(11).multinomial(
        total, [wins, discordance - wins, 1 - discordance], size=4000
    )
    found = np.mean([mcnemar_exact(int(w), int(n)) < 0.05 for w, n, _ in tables])
    assert found == pytest.approx(POWER, abs=0.02)


def test_a_difference_needs_as_much_discordance():
    """Where two models never differed, a difference comes with its own discordance."""
    difference = detectable_difference(200, 0.0)
    assert mcnemar_power(200, difference, difference) == pytest.approx(POWER, abs=0.001)


@pytest.mark.parametrize("total", [1, 5])
def test_so_few_problems_show_nothing(total):
    assert detectable_difference(total, 0.5) is None
    assert detectable_difference(6, 0.5) == pytest.approx(
        0.9635, abs=0.001
    )  # all six: 0.8 ** (1 / 6)


def test_more_problems_detect_less():
    found = [detectable_difference(n, 0.2) for n in (50, 200, 800, 3200, 12_800)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(found[-2] / 2, rel=0.05)


@pytest.mark.parametrize(
    ("difference", "discordance"), [(0.02, 0.2), (0.1, 0.1), (-0.05, 0.3), (0.3, 0.1)]
)
def test_as_many_problems_as_needed_find_it_4_times_in_5(difference, discordance):
    size, apart = abs(difference), max(discordance, abs(difference))
    needed = problems_needed(difference, discordance)
    assert mcnemar_power(needed, apart, size) >= POWER
    assert mcnemar_power(int(0.97 * needed) - 1, apart, size) < POWER


def test_a_great_number_is_close_to_the_exact_one():
    needed = problems_needed(0.01, 0.3)
    assert needed > 20_000
    assert mcnemar_power(needed, 0.3, 0.01) == pytest.approx(POWER, abs=0.005)


@pytest.mark.parametrize("difference", [0.0, 1e-5])
def test_no_number_shows_nothing(difference):
    assert problems_needed(difference, 0.3) is None


def test_what_a_clustered_set_detects_is_found_4_times_in_5():
    draw = np.random.default_rng(12)

    def differences(shift):
        return shift + draw.normal(scale=0.2, size=(60, 1)) + draw.normal(scale=0.3, size=(60, 4))

    names = [str(n // 4) for n in range(240)]
    zeros = [0.0] * 240
    shift = detectable_by_error(math.sqrt((0.04 + 0.09 / 4) / 60), 59)
    found = [flip_signs(differences(shift).sum(axis=1)) < 0.05 for _ in range(1000)]
    assert np.mean(found) == pytest.approx(POWER, abs=0.03)
    told = compare_values(differences(0).ravel(), zeros, clusters=names).detectable
    assert told == pytest.approx(shift, rel=0.2)
