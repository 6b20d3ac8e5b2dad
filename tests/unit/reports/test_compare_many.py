import json

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.statistics import (
    adjust_p_values,
    compare_paired,
    simultaneous_level,
)
from posttrain.reports.compare_many import compare_many, render_many
from posttrain.reports.compare_page import build_many_report

MARKS = {
    "base": [True] * 10 + [False] * 30,
    "good": [True] * 25 + [False] * 15,
    "same": [True] * 9 + [False] * 30 + [True],
    "bad": [False] * 40,
}


@pytest.fixture
def folders(tmp_path, build):
    """Four evaluations of 40 problems."""
    for name, marks in MARKS.items():
        records = [build.make_record(n, mark, who=name) for n, mark in enumerate(marks, 1)]
        build.write_task(tmp_path / name / "gsm8k", records)
    return [tmp_path / name for name in MARKS]


def test_each_is_compared_with_the_first_and_p_values_are_raised_together(folders):
    table = compare_many(folders).tasks[0]
    level = simultaneous_level(3)
    pairs = [compare_paired(MARKS[n], MARKS["base"], level) for n in ("good", "same", "bad")]
    assert [one.paired.paired for one in table.contenders] == pairs
    raised = adjust_p_values([pair.p_value for pair in pairs])
    assert [one.adjusted_p for one in table.contenders] == raised
    assert [one.verdict for one in table.contenders] == ["better", "no difference shown", "worse"]


def test_only_problems_that_all_have_count(folders, build):
    build.write_task(
        folders[3] / "gsm8k", [build.make_record(n, True, who="bad") for n in range(1, 6)]
    )
    comparison = compare_many(folders)
    table = comparison.tasks[0]
    assert {side.total for side in table.sides} == {table.total} == {5}
    assert [side.unshared for side in table.sides] == [35, 35, 35, 0]
    assert "On 5 problems that all have." in " ".join(render_many(comparison).split())


def test_intervals_of_differences_hold_together(folders):
    table = compare_many(folders).tasks[0]
    alone = compare_paired(MARKS["good"], MARKS["base"]).interval
    together = table.contenders[0].paired.paired.interval
    assert together[0] < alone[0] < alone[1] < together[1]
    assert "their intervals have 98.3 % each" in table.methods
    assert "Found 4 times in 5: differences of" in table.methods


def test_what_one_has_no_verdict_of_is_left_out_of_all(folders, build):
    records = [build.make_record(n, m, who="bad") for n, m in enumerate(MARKS["bad"], 1)]
    records[0]["correct"] = records[1]["correct"] = None
    build.write_task(folders[3] / "gsm8k", records)
    comparison = compare_many(folders)
    table = comparison.tasks[0]
    assert ({side.total for side in table.sides}, table.unscored) == ({38}, 2)
    assert table.base.correct == 8
    assert "2 more have no verdict" in " ".join(render_many(comparison).split())


def test_groups_have_a_column_per_evaluation_and_p_values_raised_together(folders, build):
    for name, folder in zip(MARKS, folders, strict=True):
        records = [
            build.make_record(n, m, groups={"level": str(n % 2)}, who=name)
            for n, m in enumerate(MARKS[name], 1)
        ]
        build.write_task(folder / "gsm8k", records)
    comparison = compare_many(folders)
    table = comparison.tasks[0]
    count, cells = table.groups["level"]["0"]
    assert (count, [cell.share for cell in cells]) == (20, ["25.0 %", "60.0 %", "25.0 %", "0.0 %"])
    parts = [one.paired.found.groups["level"][v] for v in "01" for one in table.contenders]
    raised = adjust_p_values([part.paired.p_value for part in parts])
    assert [part.adjusted_p for part in parts] == raised
    signs = ["", *(" ▲" if p < 0.05 else "" for p in raised[:1])]
    assert [cell.sign for cell in cells[:2]] == signs
    assert "by level" in render_many(comparison)


def test_a_group_that_not_all_have_is_left_out(folders, build):
    records = [
        build.make_record(n, m, groups={"level": str(n % 2)})
        for n, m in enumerate(MARKS["good"], 1)
    ]
    build.write_task(folders[1] / "gsm8k", records)
    assert compare_many(folders).tasks[0].groups == {}


def test_every_number_is_written_as_json(folders):
    comparison = compare_many(folders)
    found = json.loads(json.dumps(comparison.to_json()))
    assert [one["verdict"] for one in found["tasks"][0]["contenders"]] == [
        one.verdict for one in comparison.tasks[0].contenders
    ]
    assert found["tasks"][0]["base"]["value"] == 0.25
    assert found["tasks"][0]["contenders"][0]["difference"]["level"] == simultaneous_level(3)


def test_no_problem_in_all_is_refused(folders, build):
    build.write_task(folders[2] / "gsm8k", [build.make_record(99, True)])
    with pytest.raises(DataError, match="share no problem"):
        compare_many(folders)


def test_a_folder_that_is_there_twice_is_refused(folders):
    with pytest.raises(DataError, match="compared with itself"):
        compare_many([*folders, folders[1]])


def test_tasks_that_not_all_have_are_named(folders, build):
    build.write_task(folders[1] / "math", [build.make_record(1, True)])
    comparison = compare_many(folders)
    assert [task.label for task in comparison.tasks] == ["gsm8k"]
    assert "left out: math" in render_many(comparison)


def test_task_folders_are_compared_whatever_their_names(folders):
    renamed = [folder / "gsm8k" for folder in folders]
    renamed[1] = renamed[1].rename(renamed[1].with_name("other"))
    assert compare_many(renamed).tasks[0].label == "gsm8k"


def test_the_table_is_narrow(folders):
    text = render_many(compare_many(folders))
    assert max(map(len, text.split("\n"))) <= 100
    assert "+37.5" in text


def test_the_page_holds_every_side_and_escapes_answers(folders, tmp_path):
    page = build_many_report(compare_many(folders), tmp_path / "all.html").read_text()
    for name in MARKS:
        assert f"{name}" in page
    assert page.count("no difference shown") == 1
    assert "<script>alert" not in page
    assert page.count('class="items"') == len(compare_many(folders).tasks)


def test_scores_that_are_no_verdicts_are_paired_by_their_mean(tmp_path, build):
    values = {
        "a": [0.1, 0.4, 0.3, 0.2] * 3,
        "b": [0.5, 0.7, 0.8, 0.5] * 3,
        "c": [0.2, 0.3, 0.3, 0.2] * 3,
    }
    for name, scores in values.items():
        rows = [
            {"id": f"t:{i}", "reference": "x", "score": score, "prompt": []}
            for i, score in enumerate(scores)
        ]
        folder = tmp_path / name / "t"
        folder.mkdir(parents=True)
        (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "results.json").write_text(json.dumps({"metric": "f1", "value": 0.1}))
    comparison = compare_many([tmp_path / name for name in values])
    table = comparison.tasks[0]
    assert table.metric == "score"
    assert table.contenders[0].paired.paired.difference == pytest.approx(0.375)
    assert [one.verdict for one in table.contenders] == ["better", "no difference shown"]
    build_many_report(comparison, tmp_path / "all.html")
