import pytest
from scipy import stats

from posttrain.evaluation.statistics.distributions import (
    binomial_chance,
    student_p_value,
    student_quantile,
)


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


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 99, 100, 101, 1000, 50_000])
@pytest.mark.parametrize("level", [0.6, 0.95, 0.99, 0.999])
def test_students_quantiles_are_those_of_scipy(freedom, level):
    theirs = stats.t.ppf((1 + level) / 2, freedom)
    assert student_quantile(freedom, level) == pytest.approx(theirs, rel=1e-7)
    p_value = student_p_value(theirs, freedom)
    assert p_value == pytest.approx(1 - level, rel=1e-9 if freedom < 10_000 else 1e-3)


@pytest.mark.parametrize(("tries", "share"), [(1, 0.5), (20, 0.1), (5000, 0.5), (5, 0.0), (5, 1.0)])
def test_binomial_chances_are_those_of_scipy(tries, share):
    for hits in {0, 1, tries // 2, tries}:
        theirs = stats.binom.pmf(hits, tries, share)
        assert binomial_chance(hits, tries, share) == pytest.approx(theirs, rel=1e-9)
