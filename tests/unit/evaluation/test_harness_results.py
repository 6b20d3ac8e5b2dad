"""What lm-evaluation-harness has found, in our shape."""

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.harness_results import read_results, read_scores


def found(metric="acc", value=0.5, stderr=0.1, better=True):
    return {
        "results": {"t": {"alias": "t", f"{metric},none": value, f"{metric}_stderr,none": stderr}},
        "higher_is_better": {"t": {metric: better}},
        "n-shot": {"t": 0},
        "versions": {"t": 1},
    }


def sample(number, metric, value, name="none"):
    return {
        "doc_id": number, "doc_hash": f"hash {number}", "target": "4", "filter": name,
        "arguments": [("2 + 2?", {})], "resps": [["It is 4."]], "filtered_resps": ["4"],
        "metrics": [metric], metric: value,
    }  # fmt: skip


def test_verdicts_become_an_accuracy_with_wilsons_interval():
    samples = [sample(i, "acc", float(i < 1)) for i in range(2)]
    summary, records = read_results("t", found(), samples)
    assert (summary["metric"], summary["accuracy"], summary["correct"]) == ("accuracy", 0.5, 1)
    assert summary["interval"] == pytest.approx([0.0945, 0.9055], abs=1e-4)
    assert [record.correct for record in records] == [True, False]
    line = records[0].to_json()
    assert (line["id"], line["digest"], line["answer"]) == ("t:0", "hash 0", "4")
    assert "score" not in line


def test_shares_of_a_match_stay_scores():
    samples = [sample(0, "f1", 0.4), sample(1, "f1", 1.0)]
    summary, records = read_results("t", found("f1", 0.7, 0.3), samples)
    assert summary["metric"] == "f1"
    assert summary["interval"] == pytest.approx([0.7 - 0.588, 0.7 + 0.588], abs=1e-3)
    assert "correct" not in summary
    assert [record.to_json()["score"] for record in records] == [0.4, 1.0]


def test_marks_of_a_kind_that_only_happen_to_be_0_and_1_stay_scores():
    summary, _ = read_results("t", found("f1", 1.0, 0.0), [sample(0, "f1", 1.0)])
    assert summary["metric"] == "f1"


def test_every_filter_of_a_problem_is_in_its_record():
    samples = [sample(0, "exact_match", 0.0, "strict"), sample(0, "exact_match", 1.0, "loose")]
    both = found("exact_match")
    both["results"]["t"] = {"exact_match,strict": 0.0, "exact_match,loose": 1.0}
    summary, records = read_results("t", both, samples)
    assert summary["main_score"] == "exact_match,strict"
    assert records[0].scores == {"exact_match,strict": 0.0, "exact_match,loose": 1.0}
    assert [score["correct"] for score in summary["scores"].values()] == [0, 1]
    assert summary["problems"] == len(records) == 1


def test_records_have_the_fields_of_our_own():
    samples = [
        sample(0, "exact_match", 1.0, "flexible-extract"),
        sample(0, "exact_match", 0.0, "strict-match"),
        sample(1, "exact_match", 0.0, "flexible-extract") | {"filtered_resps": ["[invalid]"]},
        sample(1, "exact_match", 0.0, "strict-match"),
        sample(2, "exact_match", 0.0, "flexible-extract"),
        sample(2, "exact_match", 0.0, "strict-match"),
    ]
    both = found("exact_match")
    names = {"exact_match,flexible-extract": 1 / 3, "exact_match,strict-match": 0.0}
    both["results"]["t"] = names
    summary, records = read_results("t", both, samples)
    lines = [record.to_json() for record in records]
    assert [line["correct"] for line in lines] == [True, False, False]
    assert [line["strict"] for line in lines] == [False, False, False]
    assert [line["error"] for line in lines] == [None, "no_answer", "wrong"]
    assert [line["sample"] for line in lines] == [0, 0, 0]
    assert summary["errors"] == {"no_answer": 1, "wrong": 1}
    assert (summary["scored"], summary["strict_accuracy"]) == (3, 0.0)


def test_a_score_without_a_standard_error_has_no_interval():
    scores = read_scores("t", found("bits_per_byte", 1.5, "N/A", better=False))
    assert scores["bits_per_byte,none"] == {
        "value": 1.5, "stderr": None, "interval": None, "higher_is_better": False,
    }  # fmt: skip


def test_a_task_without_a_number():
    with pytest.raises(DataError, match="gave no score"):
        read_results("t", found(value="N/A"), [sample(0, "acc", None)])
