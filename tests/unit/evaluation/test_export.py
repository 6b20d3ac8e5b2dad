import csv
import io
import json

from posttrain.evaluation.export import OUTPUTS, build_markdown, build_table, write_evaluation
from posttrain.evaluation.results import GradedRecord, summarize


def record(number, *, correct, completion="…", **more):
    return GradedRecord(
        id=f"t.jsonl:{number}",
        prompt=[{"role": "system", "content": "s"}, {"role": "user", "content": f"Q{number} | ?"}],
        reference="1",
        completion=completion,
        answer="1" if correct else None,
        parse="boxed",
        correct=correct,
        error=None if correct else "no_answer",
        completion_tokens=3,
        finished=True,
        **more,
    )


RECORDS = [
    record(1, correct=True, groups={"level": "1"}),
    record(2, correct=False, groups={"level": "2"}, completion='=1+1,\n"two"'),
    record(3, correct=False, groups={"level": "2"}, completion="-3"),
]


def results():
    return {"name": "math", "task": "math", **summarize(RECORDS)}


def test_an_evaluation_leaves_its_four_files(tmp_path):
    write_evaluation(tmp_path / "out", results(), RECORDS)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(OUTPUTS)
    lines = (tmp_path / "out/records.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["t.jsonl:1", "t.jsonl:2", "t.jsonl:3"]
    assert json.loads(lines[0])["groups"] == {"level": "1"}
    assert "options" not in json.loads(lines[0])


def test_the_table_has_a_row_per_record_and_a_column_per_group():
    rows = list(csv.DictReader(io.StringIO(build_table([r.to_json() for r in RECORDS]))))
    assert [row["id"] for row in rows] == ["t.jsonl:1", "t.jsonl:2", "t.jsonl:3"]
    assert [row["level"] for row in rows] == ["1", "2", "2"]
    assert rows[0]["prompt"] == "Q1 | ?"
    assert rows[1]["error"] == "no_answer"


def test_a_group_takes_no_other_columns_place():
    row = {"id": "a", "error": "wrong", "groups": {"error": "arithmetic"}}
    (read,) = csv.DictReader(io.StringIO(build_table([row])))
    assert (read["error"], read["group error"]) == ("wrong", "arithmetic")


def test_no_cell_is_a_formula_to_a_spreadsheet():
    rows = list(csv.DictReader(io.StringIO(build_table([r.to_json() for r in RECORDS]))))
    assert [row["completion"] for row in rows] == ["…", '\'=1+1,\n"two"', "'-3"]


def test_broken_unicode_does_not_stop_the_table():
    rows = [{"id": "a", "completion": "half \ud800 pair"}]
    assert "half ? pair" in build_table(rows)


def test_markdown_states_score_interval_mistakes_and_sub_scores():
    text = build_markdown({**results(), "comparison": {"other": "base", "p_value": 0.25}})
    assert text.startswith("# math\n")
    assert "**Accuracy 33.3% (6.1% to 79.2%)** (1 of 3 right" in text
    assert "| no_answer | 2 |" in text
    assert "| 2 | 0 of 2 | 0.0% (0.0% to 65.8%) |" in text
    assert "## Against base" in text
    assert "| p_value | 0.25 |" in text


def test_markdown_lists_settings_one_by_one_and_leaves_out_what_says_nothing():
    examples = [{"problem": "P", "answer": "A"}] * 8
    shots = {"number": None, "examples": examples, "seed": 0}
    settings = {"system": None, "stop": ["\n"], "cot": False, "shots": shots}
    text = build_markdown({**results(), "settings": settings})
    rows = text.split("## Settings")[1].splitlines()[4:]
    assert rows == [
        '| stop | ["\\n"] |', "| cot | false |", "| shots.examples | 8 entries |",
        "| shots.seed | 0 |",
    ]  # fmt: skip
