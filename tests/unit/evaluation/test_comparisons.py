import pytest

from posttrain.errors import DataError
from posttrain.evaluation.comparisons import (
    compare_pairs,
    compare_records,
    find_better,
    group_samples,
)
from posttrain.evaluation.statistics import adjust_p_values, compare_paired, wilson_interval


def rows(marks, *, sample=0, **changes):
    """Records of one sample of each problem; ``?`` is one without a verdict."""
    verdicts = {"+": True, "-": False, "?": None}
    return [
        {"id": f"t:{n}", "sample": sample, "correct": verdicts[m], "reference": str(n), **changes}
        for n, m in enumerate(marks, 1)
    ]


def pair(first, second, level=0.95):
    sides = group_samples(first), group_samples(second)
    return compare_pairs([(sides[0][name], sides[1][name]) for name in sides[0]], level)


def test_what_has_no_verdict_is_left_out_on_both_sides_and_counted():
    found = compare_records(rows("++?-+"), rows("-+-?+"))
    assert (found["total"], found["unscored"]) == (3, 2)
    assert (found["wins"], found["losses"]) == (1, 0)
    assert found["difference"] == pytest.approx(1 / 3)


def test_nothing_with_a_verdict_on_both_sides_is_refused():
    with pytest.raises(DataError, match="no problem has a verdict"):
        compare_records(rows("+?"), rows("?+"))


def test_samples_of_a_problem_count_as_one_problem():
    first = rows("++-+", sample=0) + rows("+--+", sample=1) + rows("+?-+", sample=2)
    second = rows("-+-+", sample=0) + rows("--++", sample=1)
    found = pair(first, second)
    # By hand: 1, 1/2 (one sample without a verdict), 0, 1 against 0, 1/2, 1/2, 1.
    assert found.paired.difference == pytest.approx((1.0 + 0.0 - 0.5 + 0.0) / 4)
    assert (found.paired.total, found.paired.wins, found.paired.losses) == (4, 1, 1)
    assert found.paired.test == "sign_flips"
    assert found.unscored == 0


def test_a_sample_that_is_there_twice_is_refused():
    with pytest.raises(DataError, match=r"here: the id `t:1`, sample 1, is there twice"):
        group_samples(rows("+", sample=1) * 2, "here")


def test_single_answers_have_the_exact_test():
    found = pair(rows("+++-+-"), rows("+-----"))
    assert found.paired == compare_paired([1, 1, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0])


def test_problems_about_one_passage_stand_together():
    first, second = rows("+" * 40), rows("-" * 20 + "+" * 20)
    for side in (first, second):
        for n, row in enumerate(side):
            row["cluster"] = f"passage {n // 5}"
    found = pair(first, second).paired
    assert (found.clusters, found.test) == (8, "sign_flips")
    assert found.p_value == pytest.approx(2 / 2**4)  # four passages differ, all one way
    assert compare_paired([1] * 40, [0] * 20 + [1] * 20).p_value < 0.001
    for row in first:
        del row["cluster"]  # as in records of an older evaluation
    assert pair(first, second).paired == found
    assert pair(second, first).paired.clusters == 8


def test_clusters_of_one_are_no_clusters():
    first, second = rows("++-"), rows("+--")
    for n, row in enumerate(first):
        row["cluster"] = str(n)
    assert pair(first, second).paired.test == "mcnemar"


def test_strict_verdicts_are_compared_beside_the_others():
    first = [{**row, "strict": row["correct"]} for row in rows("+++-")]
    second = [{**row, "strict": False} for row in rows("++--")]
    found = pair(first, second)
    assert found.paired.difference == pytest.approx(1 / 4)
    assert found.strict.paired.difference == pytest.approx(3 / 4)
    assert (found.strict.first.value, found.strict.second.value) == (0.75, 0.0)
    assert pair(rows("+"), rows("-")).strict is None


def test_groups_are_compared_each_by_itself():
    marks = "+" * 10 + "-" * 10, "-" * 10 + "+-" * 5
    first, second = (
        [{**r, "groups": {"level": "12"[n >= 10], "all": "x"}} for n, r in enumerate(rows(m))]
        for m in marks
    )
    found = pair(first, second)
    assert list(found.groups) == ["level"]  # one value alone is no group
    easy, hard = found.groups["level"]["1"], found.groups["level"]["2"]
    assert (easy.paired.wins, easy.paired.losses, hard.paired.losses) == (10, 0, 5)
    assert easy.first.interval == wilson_interval(10, 10)
    assert [easy.adjusted_p, hard.adjusted_p] == adjust_p_values(
        [easy.paired.p_value, hard.paired.p_value]
    )
    # Two intervals that hold together.
    assert easy.paired.level == pytest.approx(0.975)


def test_scores_are_compared_by_their_means():
    first = [{"id": f"t:{n}", "reference": "", "score": 0.5 + n / 40} for n in range(12)]
    second = [{**row, "score": row["score"] - 0.1} for row in first]
    second[0]["score"] = None
    found = compare_records(first, second)
    assert (found["metric"], found["total"], found["unscored"]) == ("score", 11, 1)
    assert found["difference"] == pytest.approx(0.1)
    assert found["p_value"] == pytest.approx(2 / 2**11)


def test_the_test_alone_has_the_same_p_value():
    first, second = rows("+" * 12 + "-?"), rows("-" * 9 + "+" * 5)
    more = rows("-" * 14, sample=1), rows("+-" * 7, sample=1)
    for sides in ((first, second), (first + more[0], second + more[1]), (second, first)):
        groups = [group_samples(side) for side in sides]
        pairs = [(groups[0][name], groups[1][name]) for name in groups[0]]
        paired = compare_pairs(pairs).paired
        assert find_better(pairs) == (paired.difference > 0, paired.p_value)
