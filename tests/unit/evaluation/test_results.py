import pytest

from posttrain.errors import DataError
from posttrain.evaluation.results import GradedRecord, compare_records, load_records, summarize
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
        record(3, correct=False, error="wrong value"),
        record(4, correct=False, parse="none", error="no answer"),
        record(5, correct=False, error="unfinished", finished=False, tokens=20),
        record(6, correct=False, error="wrong value"),
    ]
    found = summarize(records, seconds=2.0)
    assert (found["problems"], found["correct"], found["unfinished"]) == (6, 2, 1)
    assert found["accuracy"] == 2 / 6
    assert found["strict_accuracy"] == 1 / 6
    assert found["interval"] == list(wilson_interval(2, 6))
    assert found["errors"] == {"wrong value": 2, "no answer": 1, "unfinished": 1}
    assert found["mean_completion_tokens"] == 10
    assert found["completion_tokens_per_second"] == 30


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
