import pytest

from posttrain.evaluation.judgements import (
    Judgement,
    find_mean_interval,
    rate,
    summarize_item,
    summarize_judgements,
)


def judgement(name, score, *, repeat=0, version="2.1", clarity=None):
    metrics = {} if clarity is None else {"clarity": {"score": clarity, "reasoning": "r"}}
    error = None if score is not None else "status 500"
    known = version if score is not None else None
    return Judgement(name, repeat, "d", known, score, None, metrics, error)


@pytest.mark.parametrize(
    ("score", "word"),
    [
        (1.0, "SUPERIOR"), (0.99, "SUPERIOR"), (0.9899, "ACCEPTABLE"), (0.85, "ACCEPTABLE"),
        (0.8499, "INFERIOR"), (0.0, "INFERIOR"),
    ],
)  # fmt: skip
def test_ratings(score, word):
    assert rate(score) == word


def test_an_unscored_item_is_null_and_never_zero():
    item = summarize_item([judgement("q", None)])
    assert item["score"] is None
    assert item["rating"] is None
    assert item["errors"] == ["status 500"]
    summary = summarize_judgements([judgement("a", 0.9), judgement("b", None)])
    assert summary["mean_score"] == 0.9
    assert (summary["items"], summary["scored"], summary["unscored"]) == (2, 1, 1)
    assert summary["acceptable_share"] == 1.0


def test_nothing_scored_gives_no_mean():
    summary = summarize_judgements([judgement("a", None)])
    assert summary["mean_score"] is None
    assert summary["interval"] is None
    assert summary["acceptable_share"] is None


def test_mean_and_interval_by_hand():
    # Scores 0.8, 0.9, 1.0: mean 0.9, standard error 0.1 / sqrt(3), t of 2 degrees 4.3027.
    summary = summarize_judgements(
        [judgement(n, s) for n, s in zip("abc", (0.8, 0.9, 1.0), strict=True)]
    )
    assert summary["mean_score"] == pytest.approx(0.9)
    assert summary["interval"] == pytest.approx([0.9 - 4.3027 * 0.1 / 3**0.5, 1.0], abs=1e-4)
    assert summary["ratings"] == {"SUPERIOR": 1, "ACCEPTABLE": 1, "INFERIOR": 1}
    assert find_mean_interval([0.5]) is None
    assert find_mean_interval([]) is None


def test_repeats_count_once_per_item_and_show_the_noise():
    repeats = [
        judgement("a", 0.8), judgement("a", 1.0, repeat=1),
        judgement("b", 0.5), judgement("b", None, repeat=1),
    ]  # fmt: skip
    summary = summarize_judgements(repeats)
    assert summary["mean_score"] == pytest.approx((0.9 + 0.5) / 2)
    assert summary["repeats"] == 2
    assert summary["failed_answers"] == 1
    assert summary["unscored"] == 0
    assert summary["judge_noise"] == pytest.approx(0.02**0.5)
    item = summarize_item(repeats[:2])
    assert item["score"] == pytest.approx(0.9)
    assert item["interval"][0] == 0.0  # two answers say little
    assert item["scores"] == [0.8, 1.0]


def test_versions_of_the_judge_are_not_mixed():
    summary = summarize_judgements([judgement("a", 0.9), judgement("b", 0.8, version="2.2")])
    assert summary["judge_versions"] == {"2.1": 1, "2.2": 1}
    assert summary["mean_score"] is None
    assert summary["metrics"] == {}


def test_metrics_are_averaged_without_the_overall_score():
    rows = [judgement("a", 0.9, clarity=1.0), judgement("b", 0.9, clarity=0.5)]
    rows[0].metrics["overall"] = {"score": 0.9}
    assert summarize_judgements(rows)["metrics"] == {"clarity": 0.75}
