"""Grading saved answers again; the whole command is in tests/stages/test_answers_kept.py."""

import json
import subprocess
import sys

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.export import write_evaluation
from posttrain.evaluation.regrade import regrade_task
from posttrain.evaluation.results import GradedRecord, load_records, summarize, summarize_choices
from posttrain.runs.regrade import describe


def record(number, completion, *, reference="1/2", **more):
    values = {
        "id": f"t.jsonl:{number}",
        "prompt": [{"role": "user", "content": "?"}],
        "reference": reference,
        "completion": completion,
        "answer": None,
        "parse": "none",
        "correct": False,
        "strict": False,
        "error": "no_answer",
        "completion_tokens": 3,
        "finished": True,
    }
    return GradedRecord(**{**values, **more})


def keep(folder, records, kind="number", **settings):
    summary = summarize_choices if settings.get("method") == "likelihood" else summarize
    about = {"task": "gsm8k", "kind": kind, "name": "mine", "data": "t.jsonl", "settings": settings}
    write_evaluation(folder, {**about, **summary(records)}, records)


def verdicts(folder):
    return [(r["answer"], r["correct"], r["error"]) for r in load_records(folder)]


def test_only_what_is_another_verdict_is_told_and_the_old_file_stays(tmp_path):
    right = {"answer": "1/2", "parse": "marker", "correct": True, "strict": True, "error": None}
    failed = {"correct": None, "strict": None, "error": "unanswered", "failure": "late"}
    keep(tmp_path, [record(1, "#### 1/2"), record(2, "#### 1/2", **right), record(3, "", **failed)])
    old = (tmp_path / "records.jsonl").read_bytes()
    found = regrade_task(tmp_path, [])
    told = [(c.id, c.before, c.after) for c in found.changes]
    assert told == [("t.jsonl:1", "no_answer", "right")]
    assert verdicts(tmp_path)[2] == (None, None, "unanswered")
    assert (tmp_path / "records.jsonl.before").read_bytes() == old
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["correct"], results["unscored"]) == (2, 1)
    assert not regrade_task(tmp_path, []).changes
    assert not (tmp_path / "records.jsonl.before-2").exists()


def test_other_settings_of_grading_are_kept_with_the_results(tmp_path):
    keep(tmp_path, [record(1, "first 3, then (1/2)")])
    first = regrade_task(tmp_path, [r"answer_pattern=then \((.*)\)"])
    assert first.kept == tmp_path / "records.jsonl.before"
    assert verdicts(tmp_path) == [("1/2", True, None)]
    assert json.loads((tmp_path / "results.json").read_text())["settings"]["answer_pattern"]
    assert not regrade_task(tmp_path, []).changes
    second = regrade_task(tmp_path, ["answer_pattern=first"])
    assert f"the old verdicts: {tmp_path / 'records.jsonl.before-2'}" in describe(second)


def test_answers_can_be_read_as_another_kind(tmp_path):
    keep(tmp_path, [record(1, "Answer: Paris.", reference="paris")])
    regrade_task(tmp_path, ["kind=exact"])
    assert verdicts(tmp_path)[0][1]
    with pytest.raises(ConfigError, match="cannot be graded so"):
        regrade_task(tmp_path, ["kind=choice"])


def test_options_are_chosen_anew_by_another_score(tmp_path):
    options = [
        {"letter": "A", "text": "x", "logprob": -1.0, "logprob_per_byte": -1.0},
        {"letter": "B", "text": "long", "logprob": -2.0, "logprob_per_byte": -0.5},
    ]
    more = {"answer": "B", "parse": "likelihood", "options": options, "reference": "A"}
    keep(tmp_path, [record(1, "long", **more, error="wrong")], "choice", method="likelihood")
    (change,) = regrade_task(tmp_path, ["normalize=none"]).changes
    assert (change.before, change.after) == ("wrong", "right")
    (line,) = load_records(tmp_path)
    assert (line["answer"], line["completion"]) == ("A", "x")
    with pytest.raises(ConfigError, match="cannot be graded so"):
        regrade_task(tmp_path, ["kind=number"])


def test_what_has_no_answers_is_passed_over(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"kind": "perplexity"}))
    assert regrade_task(tmp_path, []).skipped == "perplexity: has no answers to grade"
    (tmp_path / "results.json").write_text(json.dumps({"task": "harness"}))
    assert regrade_task(tmp_path, []).skipped


@pytest.mark.parametrize(("text", "said"), [("{}", "do not say how"), (None, "no results.json")])
def test_what_cannot_be_graded_is_an_error(tmp_path, text, said):
    if text:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=said):
        regrade_task(tmp_path, [])


def test_regrading_needs_no_torch():
    code = "import sys, posttrain.runs.regrade\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [('"id"', '"idx"', "no record of an answer"), ('{"', '{{"', "records.jsonl: damaged")],
)
def test_damaged_records_are_told(tmp_path, before, after, said):
    keep(tmp_path, [record(1, "#### 1")])
    path = tmp_path / "records.jsonl"
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(DataError, match=said):
        regrade_task(tmp_path, [])


def test_a_retry_that_was_stopped_is_not_graded_as_if_it_were_whole(tmp_path):
    failed = record(2, "", correct=None, strict=None, error="unanswered")
    keep(tmp_path, [record(1, "#### 1", reference="1"), failed])
    again = record(2, "#### 2", reference="2")
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write(json.dumps(again.to_json()) + "\n")
    with pytest.raises(DataError, match="3 answers, and its results are of others"):
        regrade_task(tmp_path, [])
