import math

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.comparisons import compare_records
from posttrain.evaluation.results import (
    DocumentRecord,
    GradedRecord,
    load_records,
    summarize,
    summarize_documents,
)
from posttrain.evaluation.statistics import wilson_interval
from posttrain.files import write_jsonl


def record(number, *, correct, parse="marker", error=None, finished=True, tokens=10):
    return GradedRecord(
        id=f"test.jsonl:{number}",
        prompt=[{"role": "user", "content": "?"}],
        reference=str(number),
        completion="…",
        answer=str(number) if correct else None,
        parse=parse,
        correct=correct,
        strict=correct and parse == "marker",
        error=error,
        completion_tokens=tokens,
        finished=finished,
    )


def rows(marks, start=1):
    return [
        {"id": f"test.jsonl:{n}", "correct": mark == "+", "reference": str(n)}
        for n, mark in enumerate(marks, start=start)
    ]


def test_the_summary_counts_verdicts_by_hand():
    records = [
        record(1, correct=True, tokens=4),
        record(2, correct=True, parse="last_number", tokens=6),
        record(3, correct=False, error="wrong"),
        record(4, correct=False, parse="none", error="no_answer"),
        record(5, correct=False, error="truncated", finished=False, tokens=20),
        record(6, correct=False, error="wrong"),
    ]
    found = summarize(records)
    assert (found["problems"], found["correct"], found["truncated"]) == (6, 2, 1)
    assert found["accuracy"] == 2 / 6
    assert found["strict_accuracy"] == 1 / 6
    assert found["interval"] == list(wilson_interval(2, 6))
    assert found["errors"] == {"wrong": 2, "no_answer": 1, "truncated": 1}
    assert found["mean_completion_tokens"] == 10


def test_problems_are_paired_by_name_not_by_order():
    first, second = rows("++-+-"), rows("+--++")
    found = compare_records(first, list(reversed(second)))
    assert (found["wins"], found["losses"], found["total"]) == (1, 1, 5)
    assert found["difference"] == 0


def test_problems_that_one_side_has_alone_are_counted_and_left_out():
    found = compare_records(rows("++++"), rows("--", start=4))
    assert (found["total"], found["wins"]) == (1, 1)
    assert (found["only_first"], found["only_second"]) == (3, 1)


def test_nothing_shared_is_refused():
    with pytest.raises(DataError, match="share no problem"):
        compare_records(rows("++"), rows("++", start=7))


def test_problems_of_one_name_with_other_answers_are_refused():
    second = rows("+++")
    second[1]["reference"] = "99"
    with pytest.raises(DataError, match=r"test\.jsonl:2: .*different reference answers"):
        compare_records(rows("+++"), second)


def test_records_come_back_whatever_characters_they_hold(tmp_path):
    written = [{"id": "a:1", "completion": "one\u2028two\x85three\x0bfour\r\n五 🎉"}]
    write_jsonl(tmp_path / "records.jsonl", written)
    assert load_records(tmp_path) == written


def test_missing_records_are_said(tmp_path):
    with pytest.raises(DataError, match="run the evaluation first"):
        load_records(tmp_path)


def document(number, nats, *, tokens=10, size=40, digest=None):
    return DocumentRecord(
        id=f"t.txt:{number}",
        digest=digest or f"d{number}",
        excerpt="…",
        tokens=tokens,
        bytes=size,
        nats=nats,
        nats_per_token=nats / tokens,
        perplexity=math.exp(min(nats / tokens, 700)),
        bits_per_byte=nats / math.log(2) / size,
    )


def test_documents_are_pooled_by_tokens():
    records = [document(1, 20.0), document(2, 60.0, tokens=30, size=100), document(3, 5.0)]
    found = summarize_documents(records)
    assert (found["metric"], found["higher_is_better"]) == ("perplexity", False)
    assert found["nats_per_token"] == pytest.approx(85 / 50)
    assert found["value"] == pytest.approx(math.exp(85 / 50))
    assert found["bits_per_byte"] == pytest.approx(85 / math.log(2) / 180)
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert (found["problems"], found["tokens"]) == (3, 50)


def test_a_hopeless_model_has_a_finite_perplexity():
    assert math.isfinite(summarize_documents([document(1, 1e6)])["value"])


def test_documents_are_compared_in_pairs_by_bits_per_byte():
    first = [document(n, 20.0 + n).to_json() for n in range(1, 6)]
    second = [document(n, 22.0 + n + 0.1 * n).to_json() for n in range(1, 6)]
    found = compare_records(first, second)
    assert (found["metric"], found["wins"], found["losses"], found["total"]) == (
        "bits_per_byte",
        5,
        0,
        5,
    )
    assert found["difference"] == pytest.approx(-11.5 / 5 / 40 / math.log(2))
    assert found["interval"][1] < 0
    assert found["p_value"] < 0.001
    swapped = compare_records(second, first)
    assert swapped["difference"] == -found["difference"]


def test_one_document_has_no_p_value():
    found = compare_records([document(1, 20.0).to_json()], [document(1, 22.0).to_json()])
    assert (found["interval"], found["p_value"]) == (None, None)


def test_documents_of_one_name_with_other_texts_are_refused():
    second = document(1, 20.0, digest="other").to_json()
    with pytest.raises(DataError, match=r"t\.txt:1: .*different reference answers or texts"):
        compare_records([document(1, 20.0).to_json()], [second])


def test_answers_and_texts_are_not_compared():
    with pytest.raises(DataError, match="one of the two evaluations measures answers"):
        compare_records(rows("+"), [{**document(1, 2.0).to_json(), "id": "test.jsonl:1"}])


def test_sub_scores_add_up_to_the_whole():
    records = [record(n, correct=n % 3 == 0) for n in range(1, 8)]
    records = [
        GradedRecord(**{**r.__dict__, "groups": {"level": str(n % 2), "same": "x"}})
        for n, r in enumerate(records)
    ]
    found = summarize(records)
    assert list(found["groups"]) == ["level"]  # one value alone is no sub-score
    scores = found["groups"]["level"].values()
    assert sum(score["problems"] for score in scores) == 7
    assert sum(score["correct"] for score in scores) == found["correct"] == 2
