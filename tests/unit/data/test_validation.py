import json

import pytest

from posttrain.config.data import SourceConfig, TextDataConfig
from posttrain.config.validate import ValidateConfig
from posttrain.data.validation import CONTAMINATED, REPEATED, DataSet, Validation


def chat(question, answer):
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def look(*paths, **options):
    """Findings of some files, and the validation."""
    sources = tuple(SourceConfig(path=path) for path in paths)
    check = Validation(DataSet("data", sources, **options))
    return list(check.run()), check


GOOD = [chat(f"Question {i}?", f"Answer {i}.") for i in range(20)]


def test_every_row_is_a_record_or_a_finding(write):
    bad = [
        {"messages": [{"role": "user", "content": "only asked"}]},
        chat("empty answer", ""),
        {"messages": "no list"},
        {"other": 1},
    ]
    lines = [json.dumps(row) for row in [*GOOD, *bad]]
    path = write("rows.jsonl", "\n".join([*lines, '{"broken', "[1]", '{"a": NaN}', ""]))
    found, check = look(path)

    (file,) = check.files
    assert file.rows == 27
    assert [(f.origin.line, f.row is not None) for f in found] == [(n, True) for n in range(21, 28)]
    assert sum(file.reasons.values()) == 7
    assert file.places["no assistant turn"] == [f"{path}:21"]
    assert f"{path}: 27 rows, messages (" in next(file.lines())
    assert "  20 records" in list(file.lines())
    assert "  1 × no assistant turn" in list(file.lines())


def test_too_many_unusable_rows_are_a_problem_that_names_the_first(write):
    path = write("rows.jsonl", [*GOOD[:8], {"messages": []}, {"messages": []}])

    problem = look(path)[1].find_problem()
    assert str(problem).startswith(f"{path}:9: ")
    assert "2 of 10 rows are unusable" in str(problem)
    assert look(path, max_reject_fraction=0.2)[1].find_problem() is None


def test_answers_labelled_as_bad_are_no_records_and_no_faults(write):
    rows = [{"prompt": f"q{i}", "completion": f"a{i}", "label": i < 3} for i in range(10)]
    found, check = look(write("rows.jsonl", rows), write("good.jsonl", GOOD))

    assert {f.reason for f in found} == {"the answer is labelled as bad"}
    told = list(check.lines())
    assert told[1:3] == ["  3 records", "  7 × the answer is labelled as bad"]
    assert told[-1] == "together: 30 rows, 23 records, 0 unusable"
    assert check.find_problem() is None


def test_a_file_that_cannot_be_read_does_not_hide_the_others(write):
    good, bad = write("good.jsonl", GOOD), write("bad.jsonl", [{"x": 1}])
    _, check = look(bad, good)

    assert [file.rows for file in check.files] == [0, 20]
    assert "no known chat format has the fields `x`" in str(check.find_problem())
    assert any("bad.jsonl" in line for line in check.lines())
    assert any(line.startswith("together: 20 rows, 20 records") for line in check.lines())


def test_a_file_that_is_not_there_is_a_problem(tmp_path):
    _, check = look(tmp_path / "gone.jsonl")

    assert "gone.jsonl: no such file" in str(check.find_problem())
    assert list(check.lines()) == []


def test_rows_tell_what_they_are(write):
    pairs = [{"prompt": "q", "chosen": "a", "rejected": r} for r in "bca"]
    prompts = [{"prompt": "What is 1 + 1?"}] * 3
    files = [
        write("a.jsonl", pairs),
        write("b.jsonl", prompts),
        write("c.jsonl", [{"text": "once"}]),
        write("d.txt", "one\n\ntwo\n"),
    ]
    _, check = look(*files)

    formats = [(file.format, file.rows, sum(file.reasons.values())) for file in check.files]
    assert formats == [("preference", 3, 1), ("prompt", 3, 0), ("text", 1, 0), ("text", 2, 0)]
    assert check.files[0].reasons == {"chosen and rejected are equal": 1}


def test_rows_without_an_answer_are_unusable_where_answers_are_wanted(write):
    path = write("rows.jsonl", [{"prompt": "What is 1 + 1?"}] * 3)

    assert look(path, kind="chat")[1].files[0].reasons == {"no assistant turn": 3}
    assert look(path, kind="prompt")[1].files[0].reasons == {}


def test_text_is_read_as_the_recipe_says(write):
    path = write("rows.jsonl", [{"body": "once"}, {"body": ""}])
    text = TextDataConfig(sources=(SourceConfig(path=path),), text_fields=("body",))
    _, check = look(path, kind="text", text=text)

    assert (check.files[0].rows, sum(check.files[0].reasons.values())) == (2, 1)


@pytest.mark.parametrize("method", ["exact", "near"])
def test_repeated_rows_are_found_across_files_and_stay_usable(write, method):
    one, two = write("one.jsonl", GOOD), write("two.jsonl", [chat("New?", "Yes."), GOOD[3]])
    config = ValidateConfig(path=one, dedup={"method": method, "threshold": 1})
    found, check = look(one, two, dedup=config.dedup)

    assert [(f.reason, str(f.origin), f.detail, f.row) for f in found] == [
        (REPEATED, f"{two}:2", f"as {one}:4", GOOD[3])
    ]
    assert check.find_problem() is None
    assert "  2 records" in list(check.files[1].lines())


def test_evaluation_problems_are_found_and_stop_only_where_asked(write):
    path, against = write("rows.jsonl", GOOD), write("test.jsonl", [chat("question 3", "x")])

    def settings(action):
        given = {"against": [{"path": against}], "action": action}
        return ValidateConfig(path=path, contamination=given).contamination

    found, check = look(path, contamination=settings("report"))
    assert [(f.reason, f.origin.line, f.row) for f in found] == [(CONTAMINATED, 4, GOOD[3])]
    assert check.find_problem() is None
    _, strict = look(path, contamination=settings("error"))
    assert str(strict.find_problem()).startswith(f"{path}:4")


def test_watched_rows_are_checked_and_nothing_more(write):
    path, watched = write("rows.jsonl", GOOD), write("val.jsonl", [GOOD[0], {"messages": []}])
    config = ValidateConfig(path=path, dedup={"method": "exact"})
    source = SourceConfig(path=watched)
    found, _ = look(path, watched=(source,), dedup=config.dedup)

    assert [(f.reason != REPEATED, f.origin.line) for f in found] == [(True, 2)]
