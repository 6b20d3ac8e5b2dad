from dataclasses import replace

import pytest

from posttrain.evaluation.export import build_markdown
from posttrain.evaluation.results import GradedRecord, summarize
from posttrain.evaluation.scores import (
    count_verdicts,
    measure_lengths,
    normal_form,
    score_samples,
    score_strict,
    vote,
)
from posttrain.evaluation.statistics import (
    estimate_share,
    majority_at_k,
    pass_at_k,
    wilson_interval,
)


def record(problem, correct, *, sample=0, answer="1", tokens=10, **more):
    return GradedRecord(
        id=f"t:{problem}",
        sample=sample,
        prompt=[],
        reference="1",
        completion="…",
        answer=answer,
        parse="boxed",
        correct=correct,
        error=None if correct else "wrong",
        completion_tokens=tokens,
        finished=True,
        **more,
    )


def sampled(*problems):
    """Records of problems given by their samples: right, wrong or without a verdict."""
    verdicts = {"+": True, "-": False, "?": None}
    return [
        record(n, verdicts[mark], sample=k)
        for n, marks in enumerate(problems)
        for k, mark in enumerate(marks)
    ]


def test_single_answers_are_counted_with_wilsons_interval():
    found = count_verdicts(sampled("+", "+", "-", "?"))
    assert (found["problems"], found["scored"], found["unscored"], found["correct"]) == (4, 3, 1, 2)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["interval"] == list(wilson_interval(2, 3))
    assert "clusters" not in found


def test_each_problem_counts_once_by_the_share_of_its_samples():
    found = count_verdicts(sampled("++++", "+---", "--??", "????"))
    assert found["accuracy"] == pytest.approx((1 + 1 / 4 + 0) / 3)
    assert found["interval"] == list(estimate_share([1.0, 0.25, 0.0], samples=10).interval)
    assert (found["problems"], found["scored"], found["unscored"]) == (4, 10, 6)


def test_problems_of_one_passage_widen_the_interval():
    records = [record(n, n < 20, cluster=f"passage {n // 4}") for n in range(40)]
    found = count_verdicts(records)
    plain = wilson_interval(20, 40)
    assert found["clusters"] == 10
    assert found["interval"][0] < plain[0]
    assert plain[1] < found["interval"][1]


def test_nothing_scored_is_null_and_not_0():
    found = summarize(sampled("??", "?"))
    assert (found["value"], found["accuracy"], found["interval"]) == (None, None, None)
    assert (found["unscored"], found["strict_accuracy"]) == (3, None)
    assert "pass_at_k" not in found


def test_strict_answers_have_an_interval_of_their_own():
    records = [record(n, True, strict=n < 3) for n in range(10)]
    found = score_strict(records)
    assert found == {"strict_accuracy": 0.3, "strict_interval": list(wilson_interval(3, 10))}


def test_pass_at_k_is_the_mean_over_problems_with_so_many_verdicts():
    found = score_samples(sampled("++--", "+---", "-+?"))
    assert list(found["pass_at_k"]) == ["1", "2", "4"]
    one, two, four = (found["pass_at_k"][k] for k in ("1", "2", "4"))
    assert one["value"] == pytest.approx((1 / 2 + 1 / 4 + 1 / 2) / 3)
    assert two["value"] == pytest.approx((pass_at_k(2, 4, 2) + pass_at_k(1, 4, 2) + 1) / 3)
    assert (four["value"], four["problems"], two["problems"]) == (1, 2, 3)
    assert two["interval"][0] < two["value"] < two["interval"][1]


def test_all_samples_are_among_the_sizes():
    assert list(score_samples(sampled("+--+-+", "+-----"))["majority"]) == ["1", "2", "4", "6"]
    assert score_samples(sampled("+", "-")) == {}


def test_votes_are_for_answers_in_the_graders_form():
    written = [("1/2", True), ("0.5", True), ("3.0", False), ("3", False), ("$3$", False),
               ("7", False), (None, False)]  # fmt: skip
    samples = [record(0, c, sample=n, answer=a) for n, (a, c) in enumerate(written)]
    assert vote(samples) == majority_at_k(2, [3, 1], 1)
    assert normal_form("3.0") == normal_form("3") != normal_form("30")


def test_the_majority_can_be_wrong_where_most_are():
    right_answer_rare = [record(0, n < 2, sample=n, answer="1" if n < 2 else "2") for n in range(6)]
    found = score_samples(right_answer_rare)
    assert found["majority"]["6"]["value"] == 0
    assert found["pass_at_k"]["6"]["value"] == 1


def test_lengths_are_told_by_right_and_wrong():
    records = [record(0, True, tokens=10), record(1, False, tokens=30), record(2, None, tokens=50)]
    assert measure_lengths(records) == {
        "mean_completion_tokens": 30,
        "mean_completion_tokens_right": 10,
        "mean_completion_tokens_wrong": 30,
    }
    assert measure_lengths([record(0, True)])["mean_completion_tokens_wrong"] is None


def test_what_was_never_written_has_no_length_and_was_not_cut_off():
    failed = replace(record(1, None, tokens=0), error="unanswered", finished=False)
    found = summarize([record(0, True, tokens=10), failed])
    assert (found["mean_completion_tokens"], found["truncated"]) == (10, 0)
    assert summarize([failed])["mean_completion_tokens"] is None


def test_groups_of_samples_have_intervals_by_problem():
    records = [
        record(n, k < n % 3, sample=k, groups={"level": str(n % 2)})
        for n in range(30)
        for k in range(4)
    ]
    found = summarize(records)
    for score in found["groups"]["level"].values():
        assert (score["problems"], score["scored"]) == (15, 60)
        assert score["interval"][0] < score["accuracy"] < score["interval"][1]
    assert found["pass_at_k"]["1"]["value"] == pytest.approx(found["value"])


def test_the_report_has_a_table_of_samples():
    text = build_markdown({"name": "math", **summarize(sampled("++--", "+---"))})
    assert "| k | pass@k | majority of k | problems |" in text
    assert "| 4 | 100.0% (" in text
