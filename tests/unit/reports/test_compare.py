import json
import re

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.statistics import compare_paired
from posttrain.reports.compare import compare_runs, render_comparison
from posttrain.reports.compare_page import build_comparison_report


def folded(text):
    return " ".join(text.split())


def test_records_are_paired_by_id_and_not_by_place(tmp_path, build):
    marks = {1: (True, False), 2: (True, False), 3: (False, True), 4: (True, True)}
    build.write_task(tmp_path / "a/gsm8k", [build.make_record(n, m[0]) for n, m in marks.items()])
    build.write_task(
        tmp_path / "b/gsm8k", [build.make_record(n, marks[n][1]) for n in (4, 3, 2, 1)]
    )
    task = compare_runs(tmp_path / "a/gsm8k", tmp_path / "b/gsm8k").tasks[0]
    assert task.paired == compare_paired([True, True, False, True], [False, False, True, True])
    assert [s.identity for s in task.only_first] == ["data/test.jsonl:1", "data/test.jsonl:2"]
    assert [s.identity for s in task.only_second] == ["data/test.jsonl:3"]


def test_a_run_means_its_last_evaluate_stage(run):
    by_run = compare_runs(run, run / "before")
    by_stage = compare_runs(run / "after", run / "before")
    assert by_run == by_stage
    assert (by_run.first, by_run.second) == ("demo/after", "demo/before")
    assert by_run.tasks[0].first.correct == 27
    assert by_run.tasks[0].paired.difference == pytest.approx(17 / 40)


def test_problems_on_one_side_only_are_counted_and_left_out(tmp_path, build):
    build.write_task(tmp_path / "a/gsm8k", [build.make_record(n, True) for n in range(1, 8)])
    build.write_task(tmp_path / "b/gsm8k", [build.make_record(n, False) for n in range(5, 10)])
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    task = comparison.tasks[0]
    assert (task.first.unshared, task.second.unshared, task.paired.total) == (4, 2, 3)
    text = render_comparison(comparison)
    assert "4 problems are only in" in text
    assert "2 problems are only in" in text


def test_what_was_set_aside_is_no_task(tmp_path, build):
    for side in "ab":
        for name in ("gsm8k", "gsm8k.old-1"):
            build.write_task(tmp_path / side / name, [build.make_record(1, True)])
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    assert [task.label for task in comparison.tasks] == ["gsm8k"]


def test_no_shared_problem_is_refused(tmp_path, build):
    build.write_task(tmp_path / "a/gsm8k", [build.make_record(1, True)])
    build.write_task(tmp_path / "b/gsm8k", [build.make_record(2, True)])
    with pytest.raises(DataError, match="share no problem") as raised:
        compare_runs(tmp_path / "a", tmp_path / "b")
    assert "\n" not in str(raised.value)


def test_same_id_with_another_reference_is_refused(tmp_path, build):
    build.write_task(tmp_path / "a/gsm8k", [build.make_record(1, True), build.make_record(2, True)])
    build.write_task(
        tmp_path / "b/gsm8k",
        [build.make_record(1, True), build.make_record(2, True, reference="8")],
    )
    with pytest.raises(DataError, match=r"data/test.jsonl:2: .*for 1 of 2 problems"):
        compare_runs(tmp_path / "a", tmp_path / "b")


def test_id_that_is_there_twice_is_refused(tmp_path, build):
    build.write_task(
        tmp_path / "a/gsm8k", [build.make_record(1, True), build.make_record(1, False)]
    )
    build.write_task(tmp_path / "b/gsm8k", [build.make_record(1, True)])
    with pytest.raises(DataError, match="there twice"):
        compare_runs(tmp_path / "a", tmp_path / "b")


def test_folder_without_results_is_refused(run, tmp_path):
    with pytest.raises(DataError, match="no results of an evaluation"):
        compare_runs(run, run / "sft")
    with pytest.raises(DataError, match="no such folder"):
        compare_runs(run, tmp_path / "absent")
    (run / "after/gsm8k/results.json").unlink()
    with pytest.raises(DataError, match="no results of an evaluation"):
        compare_runs(run / "after", run / "before")


def test_same_folder_twice_is_refused(run):
    with pytest.raises(DataError, match="compared with itself"):
        compare_runs(run, run / "after")


def test_tasks_of_one_side_are_named_and_different_tasks_are_refused(run, build):
    build.write_evaluation(run / "after", [True, False], label="other")
    comparison = compare_runs(run / "after", run / "before")
    assert [t.label for t in comparison.tasks] == ["gsm8k"]
    assert comparison.left_out == ("other",)
    assert "left out: other" in render_comparison(comparison)
    with pytest.raises(DataError, match=r"share no task: other \| gsm8k"):
        compare_runs(run / "after/other", run / "before")


def test_two_task_folders_are_compared_whatever_their_names(run, build):
    build.write_evaluation(run / "after", [True] * 40, label="other")
    comparison = compare_runs(run / "after/other", run / "before/gsm8k")
    assert comparison.tasks[0].paired.wins == 30


def test_folders_of_one_name_are_told_apart_by_the_one_above(tmp_path, build):
    for name in "ab":
        build.write_task(tmp_path / name / "evaluate/gsm8k", [build.make_record(1, True)])
    comparison = compare_runs(tmp_path / "a/evaluate/gsm8k", tmp_path / "b/evaluate/gsm8k")
    assert (comparison.first, comparison.second) == ("a/evaluate/gsm8k", "b/evaluate/gsm8k")


def test_rendering_states_every_number_and_who_is_better(run):
    task = compare_runs(run / "after", run / "before").tasks[0]
    text = folded(render_comparison(compare_runs(run / "after", run / "before")))
    assert "demo/after 27 of 40 67.5 %" in text
    assert "demo/before 10 of 40 25.0 %" in text
    assert f"Only demo/after right: {task.paired.wins}; only demo/before right: 2" in text
    assert f"the same: {task.ties}" in text
    assert "demo/after is better than demo/before by 42.5 points" in text
    swapped = folded(render_comparison(compare_runs(run / "before", run / "after")))
    assert "First minus second −42.5 points" in swapped
    assert "demo/after is better than demo/before by 42.5 points" in swapped


def test_difference_within_chance_is_not_called_better(tmp_path, build):
    build.write_task(tmp_path / "a/gsm8k", [build.make_record(n, n != 1) for n in range(1, 6)])
    build.write_task(tmp_path / "b/gsm8k", [build.make_record(n, n > 2) for n in range(1, 6)])
    text = folded(render_comparison(compare_runs(tmp_path / "a", tmp_path / "b")))
    assert "show no difference" in text
    assert "is better" not in text
    assert "they are too few to show any." in text


def write_alternating(build, folder, marks, **changes):
    build.write_task(folder, [build.make_record(n, m, **changes) for n, m in enumerate(marks, 1)])


def test_the_verdict_says_what_the_set_could_have_shown(tmp_path, build):
    write_alternating(build, tmp_path / "a/gsm8k", [n % 2 == 0 for n in range(200)])
    write_alternating(build, tmp_path / "b/gsm8k", [n % 2 == 0 or n < 8 for n in range(200)])
    found = compare_runs(tmp_path / "a", tmp_path / "b")
    paired = found.tasks[0].paired
    text = folded(render_comparison(found))
    assert f"a difference of {100 * paired.detectable:.1f} points 4 times in 5" in text
    assert f"2.0 points would take {paired.needed:,} of them" in text
    shown = compare_runs(tmp_path / "a", tmp_path / "b").tasks[0]
    assert not shown.is_shown
    write_alternating(build, tmp_path / "c/gsm8k", [True] * 200)
    better = compare_runs(tmp_path / "c", tmp_path / "a").tasks[0].verdict
    assert "is better than" in better
    assert "these 200 problems show a difference of" in better


def test_groups_strict_and_unscored_answers_are_told(tmp_path, build):
    for name in "ab":
        records = [
            build.make_record(
                n, (n % 2 == 0) == (name == "a"), strict=n % 4 == 0, groups={"level": str(n % 2)}
            )
            for n in range(1, 41)
        ]
        records[0]["correct"] = None
        build.write_task(tmp_path / name / "math", [dict(r) for r in records])
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    text = folded(render_comparison(comparison))
    assert "by level problems" in text
    assert "Only answers in the form asked for: 25.6 % against 25.6 %, 0.0 points" in text
    assert "1 problems without a verdict on either side are left out" in text
    assert f"1 answers of {tmp_path.name}/a have no verdict." in text
    html = build_comparison_report(comparison, tmp_path / "c.html").read_text(encoding="utf-8")
    assert "By level" in html
    assert "()" not in html[: html.index("<dialog")] + render_comparison(comparison)
    assert "have no verdict" in html


def test_several_samples_are_told_as_such(tmp_path, build):
    for name, right in (("a", 3), ("b", 1)):
        records = [
            build.make_record(n, k < right, sample=k) for n in range(1, 21) for k in range(4)
        ]
        build.write_task(tmp_path / name / "math", records)
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    side = comparison.tasks[0].first
    assert (side.total, side.samples, side.correct, side.value) == (20, 80, 60, 0.75)
    text = folded(render_comparison(comparison))
    assert "60 of 80 75.0 %" in text
    assert f"Only {tmp_path.name}/a better: 20" in text
    assert "bootstrap over problems" in text
    # Of four samples with the same first one, those that differ are shown.
    assert [a.correct for a in comparison.tasks[0].only_first[0].answers] == [True, False]


def test_every_number_is_written_as_json(run, tmp_path):
    comparison = compare_runs(run / "after", run / "before")
    found = json.loads(json.dumps(comparison.to_json()))["tasks"][0]
    paired = comparison.tasks[0].paired
    assert found["difference"]["p_value"] == paired.p_value
    assert found["difference"]["interval"] == list(paired.interval)
    assert found["difference"]["detectable"] == paired.detectable
    assert found["first"]["value"] == 27 / 40
    assert found["verdict"] == comparison.tasks[0].verdict


def test_rendering_is_plain_narrow_and_safe_to_print(tmp_path, build):
    odd = {"prompt": [{"role": "user", "content": "[bold]\x1b[31m" + "很长的问题" * 40}]}
    build.write_task(tmp_path / "a/gsm8k", [build.make_record(n, True, **odd) for n in range(1, 9)])
    build.write_task(
        tmp_path / "b/gsm8k", [build.make_record(n, False, **odd) for n in range(1, 9)]
    )
    text = render_comparison(compare_runs(tmp_path / "a", tmp_path / "b"))
    assert "\x1b" not in text
    assert "[bold]␛[31m很长" in text
    assert text.count("data/test.jsonl:") == 5
    assert max(len(line) for line in text.split("\n")) <= 100


def test_report_holds_the_numbers_and_escapes_answers(run, tmp_path):
    comparison = compare_runs(run / "after", run / "before")
    out = build_comparison_report(comparison, tmp_path / "out/comparison.html")
    html = out.read_text(encoding="utf-8")
    text = folded(re.sub(r"<[^>]+>", " ", html[html.index("<body>") :]))
    assert "+42.5 points" in text
    assert "27 of 40 67.5 %" in text
    assert html.count("<svg") == 1
    assert "<script>alert" not in html
    assert "\\u003cscript\\u003ealert(1)" in html
    assert re.search(r"https?://", html) is None


def test_unfinished_stage_folder_with_finished_task_counts(run):
    (run / "after/stage.json").unlink()
    assert compare_runs(run / "after", run / "before").tasks[0].first.total == 40


def test_records_are_what_counts_not_the_stated_results(run, build):
    results = json.loads((run / "after/gsm8k/results.json").read_text())
    build.write_json(run / "after/gsm8k/results.json", {**results, "correct": 1, "accuracy": 0.025})
    assert compare_runs(run / "after", run / "before").tasks[0].first.correct == 27


def write_texts(build, folder, nats):
    """Write a perplexity task of one document per number."""
    rows = [
        {"id": f"t.txt:{n}", "digest": str(n), "excerpt": "…", "tokens": 10, "bytes": 40, "nats": x}
        for n, x in enumerate(nats, 1)
    ]
    build.write_jsonl(folder / "records.jsonl", rows)
    results = {"metric": "perplexity", "value": 7.0, "interval": None, "problems": len(rows)}
    build.write_json(folder / "results.json", {"task": "perplexity", "name": "text", **results})


def test_texts_are_compared_by_bits_per_byte_and_less_is_better(tmp_path, build):
    write_texts(build, tmp_path / "a/text", [20.0, 21.0, 22.0, 23.0])
    write_texts(build, tmp_path / "b/text", [22.0, 23.1, 24.2, 25.0])
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    text = folded(render_comparison(comparison))
    name = f"{tmp_path.name}/a"
    assert f"{name} 4 texts 8.585" in text
    assert "First minus second −0.0748 bits per byte (−0.0803 to −0.0693); p" in text
    assert f"{name} is better than {tmp_path.name}/b by 0.0748 bits per byte" in text
    html = build_comparison_report(comparison, tmp_path / "c.html").read_text(encoding="utf-8")
    assert "−0.0748 bits per byte" in html
    assert "<svg" not in html


def test_one_text_alone_settles_nothing(tmp_path, build):
    write_texts(build, tmp_path / "a/text", [20.0])
    write_texts(build, tmp_path / "b/text", [30.0])
    text = folded(render_comparison(compare_runs(tmp_path / "a", tmp_path / "b")))
    assert "One text alone cannot tell" in text


def test_a_group_of_one_passage_has_no_interval_and_the_page_is_written(tmp_path, build):
    for name, last in (("a", True), ("b", False)):
        rows = [
            build.make_record(n, n > 1 or last, cluster=f"passage {n % 2}", groups={"level": n % 2})
            for n in range(1, 5)
        ]
        build.write_task(tmp_path / name / "gsm8k", rows)
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    intervals = [
        part.paired.interval for part in comparison.tasks[0].found.groups["level"].values()
    ]
    assert None in intervals
    html = build_comparison_report(comparison, tmp_path / "c.html").read_text(encoding="utf-8")
    assert "By level" in html
    assert "()" not in html[: html.index("<dialog")] + render_comparison(comparison)
