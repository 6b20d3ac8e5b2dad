import json
import re
import shutil

import pytest

from posttrain.errors import DataError
from posttrain.reports.accounting import list_files
from posttrain.reports.folders import build_metrics, load_run
from posttrain.reports.formatting import format_p_value, format_points, format_time
from posttrain.reports.run import build_run_report
from posttrain.reports.transcripts import choose_samples


def read_report(run):
    return build_run_report(run).read_text(encoding="utf-8")


def plain(html):
    """The text a reader sees, in one line."""
    body = html[html.index("<body>") :]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_report_shows_the_numbers_of_the_run(run):
    text = plain(read_report(run))
    assert "25.0 % → 67.5 %" in text
    assert "Accuracy, base 25.0 % (11.1–22.2 %)" in text
    assert "Paired difference +42.5 points (+25.0 to +57.0)" in text
    assert "0.00031; 19 gained, 2 lost of 40" in text
    assert "Supervised tokens 170,115" in text
    assert "Peak memory 3.0 GiB" in text
    assert "Training time 3 min 20 s" in text
    assert "Total time 4 min 20 s" in text
    assert "1,000,000 of 10,000,000 (10.0 %)" in text
    assert "torch 2.13.0" in text
    assert "seeds run 17" in text


def test_report_is_one_file_that_fetches_nothing(run):
    html = read_report(run)
    assert re.search(r"https?://", html) is None
    assert re.search(r"<(script|link|img|iframe)\b", html) is None
    assert "script-src 'none'" in html


def test_text_of_users_is_escaped_and_chinese_is_kept(run):
    html = read_report(run)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "小明有 3 个苹果 &amp; 妈妈" in html


def test_names_that_are_markup_are_escaped_too(run, build):
    report = json.loads((run / "sft/data/report.json").read_text())
    report["sources"][0]["path"] = "/data/<b>.jsonl"
    report["rejects"] = {"<i>odd</i>": 7}
    build.write_json(run / "sft/data/report.json", report)
    html = read_report(run)
    assert "/data/&lt;b&gt;.jsonl" in html
    assert "&lt;i&gt;odd&lt;/i&gt;" in html
    assert "<i>odd" not in html


def test_equal_runs_give_equal_bytes_and_an_old_report_changes_nothing(run):
    first = build_run_report(run).read_bytes()
    assert build_run_report(run).read_bytes() == first
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


def test_plots_share_no_ids_and_carry_no_date(run):
    html = read_report(run)
    assert html.count("<svg") == 7
    assert "<metadata" not in html
    assert re.search(r'<g id="', html) is None
    assert "var(--series-1)" in html


def test_rows_that_do_not_add_up_are_called_out(run, build):
    assert "The lines above add up" in plain(read_report(run))
    report = json.loads((run / "sft/data/report.json").read_text())
    build.write_json(run / "sft/data/report.json", {**report, "rows_read": 121})
    text = plain(read_report(run))
    assert "do not add up" in text
    assert "Rows read 121" in text


def test_failed_audit_and_missing_contamination_search_are_shown(run, build):
    assert "Evaluation problems 50" in plain(read_report(run))
    report = json.loads((run / "sft/data/report.json").read_text())
    report["contamination"] = None
    report["audit"][0] |= {"failures": 2, "examples": ["train.jsonl:3"]}
    build.write_json(run / "sft/data/report.json", report)
    text = plain(read_report(run))
    assert "✗ failed" in text
    assert "train.jsonl:3" in text
    assert "were not searched" in text


def test_unfinished_training_shows_what_is_logged_so_far(run, build):
    shutil.rmtree(run / "after")
    shutil.rmtree(run / "sft")
    build.write_training(run / "sft", steps=60, finished=False)
    text = plain(read_report(run))
    assert "This run is not finished: sft is unfinished, after is not started." in text
    assert "Steps 60" in text
    assert "Supervised tokens 102,000 so far" in text
    assert "Accuracy, base 25.0 %" in text
    assert "Accuracy, tuned" not in text


def test_run_with_only_a_training_stage(tmp_path, build):
    build.write_json(
        tmp_path / "r/config.json", build.make_config("r", [{"stage": "sft", "name": "sft"}])
    )
    build.write_training(tmp_path / "r/sft")
    text = plain(read_report(tmp_path / "r"))
    assert "Supervised tokens 170,115" in text
    assert "Accuracy" not in text
    assert "not finished" not in text


def test_run_with_only_an_evaluation_and_no_recipe(tmp_path, build):
    build.write_evaluation(tmp_path / "r/evaluate", [True, True, False, False])
    text = plain(read_report(tmp_path / "r"))
    assert "Accuracy 50.0 %" in text
    assert "Training" not in text
    assert "Sample answers: gsm8k" in text


def test_training_that_has_not_logged_yet(tmp_path, build):
    build.write_json(
        tmp_path / "r/config.json", build.make_config("r", [{"stage": "sft", "name": "sft"}])
    )
    (tmp_path / "r/sft").mkdir()
    assert "sft is unfinished" in plain(read_report(tmp_path / "r"))


def test_two_tasks_get_a_column_each(run, build):
    build.write_evaluation(run / "before", [True, False], label="other")
    build.write_evaluation(run / "after", [True, True], label="other")
    text = plain(read_report(run))
    assert "gsm8k other Accuracy, base" in text
    assert "Accuracy, tuned 67.5 % (11.1–22.2 %) 100.0 % (11.1–22.2 %)" in text


def test_difference_is_computed_where_the_evaluation_states_none(run, build):
    marks = [False] * 20 + [True] * 20
    build.write_evaluation(run / "after", marks)
    assert "+25.0 points" in plain(read_report(run))
    assert "10 gained, 0 lost of 40" in plain(read_report(run))


def test_answers_to_other_problems_are_not_paired(run, build):
    build.write_evaluation(run / "after", [True] * 41)
    assert "Paired difference" not in plain(read_report(run))


def test_later_line_of_a_step_wins_and_abandoned_steps_are_forgotten(build):
    lines = [build.training_line(step, 1.0) for step in (10, 20, 30, 40)]
    lines.insert(2, {"step": 20, "validation_loss": 5.0})
    lines.insert(5, {"step": 40, "validation_loss": 6.0})
    resumed = [build.training_line(30, 2.0)]
    metrics = build_metrics(lines + resumed)
    assert metrics.series("loss") == ([10.0, 20.0, 30.0], [1.0, 1.0, 2.0])
    assert metrics.series("validation_loss") == ([20.0], [5.0])


def test_validation_before_and_after_its_training_line_is_kept(build):
    for lines in (
        [build.training_line(10, 1.0), {"step": 10, "validation_loss": 3.0}],
        [{"step": 10, "validation_loss": 3.0}, build.training_line(10, 1.0)],
    ):
        assert build_metrics(lines).series("validation_loss") == ([10.0], [3.0])
        assert build_metrics(lines).series("loss") == ([10.0], [1.0])


def test_values_that_are_not_finite_are_not_plotted(build):
    metrics = build_metrics([build.training_line(1, float("nan")), build.training_line(2, 0.5)])
    assert metrics.series("loss") == ([2.0], [0.5])


def test_unfinished_last_line_is_left_out(run):
    path = run / "sft/metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 110, "lo')
    assert load_run(run).stages[1].metrics.training[-1]["step"] == 100


def test_separators_inside_an_answer_do_not_break_its_line(run, build):
    rows = [build.make_record(1, True, completion="a\u2028b\x85c"), build.make_record(2, False)]
    build.write_jsonl(run / "after/gsm8k/records.jsonl", rows)
    records = load_run(run).stages[2].tasks[0].load_records()
    assert records[0]["completion"] == "a\u2028b\x85c"


def test_lone_surrogate_in_an_answer_does_not_stop_the_report(run, build):
    path = run / "after/gsm8k/records.jsonl"
    path.write_text(json.dumps(build.make_record(1, True, completion="x\ud800y")) + "\n")
    assert "x?y" in read_report(run)


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ([False, False, True, True, True], [3, 4, 1]),
        ([True, True, True, True], [1, 2, 3]),
        ([False, False], [1, 2]),
        ([False, True, False, False], [2, 1, 3]),
    ],
)
def test_samples_are_two_right_and_one_wrong_where_there_are_such(tmp_path, marks, expected, build):
    build.write_evaluation(tmp_path / "evaluate", marks)
    task = load_run(tmp_path).stages[0].tasks[0]
    samples = choose_samples(task, [("model", task)])
    assert [s.identity for s in samples] == [f"data/test.jsonl:{n}" for n in expected]


def test_samples_are_the_first_of_several_and_none_is_unscored(tmp_path, build):
    build.write_evaluation(tmp_path / "evaluate", [False])
    rows = [
        build.make_record(n, mark, sample=sample, who=f"sample {sample}")
        for n, marks in enumerate([(None, True), (True, False), (False, True)], 1)
        for sample, mark in enumerate(marks)
    ]
    build.write_jsonl(tmp_path / "evaluate/gsm8k/records.jsonl", rows)
    task = load_run(tmp_path).stages[0].tasks[0]
    samples = choose_samples(task, [("model", task)])
    assert [s.identity for s in samples] == [f"data/test.jsonl:{n}" for n in (2, 3)]
    assert [s.answers[0].correct for s in samples] == [True, False]
    assert all(s.answers[0].completion.startswith("sample 0") for s in samples)


def test_answer_of_the_base_model_stands_beside_the_same_problem(run):
    text = plain(read_report(run))
    assert "before 3 + 4 = 9 #### 9 tuned ✓ right" in text


def test_answer_to_another_problem_does_not_stand_beside(run, build):
    records = [build.make_record(n, False, who="before") for n in range(1000, 1040)]
    build.write_jsonl(run / "before/gsm8k/records.jsonl", records)
    assert "before 3 + 4" not in plain(read_report(run))


def test_files_are_listed_without_the_report_and_links_are_not_followed(tmp_path):
    (tmp_path / "checkpoints/step-1").mkdir(parents=True)
    (tmp_path / "checkpoints/step-1/model.bin").write_bytes(b"x" * 2048)
    (tmp_path / "checkpoints/last").symlink_to("step-1")
    (tmp_path / "report.html").write_text("old")
    assert list_files(tmp_path, "report.html") == (
        [("checkpoints/last", "→ step-1"), ("checkpoints/step-1/model.bin", "2.0 KiB")],
        0,
    )


def test_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no run"):
        build_run_report(tmp_path / "empty")
    with pytest.raises(DataError, match="no such folder"):
        build_run_report(tmp_path / "absent")


def test_damaged_file_is_named_with_its_line(run):
    path = run / "sft/metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\nnonsense\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: not valid JSON") as raised:
        build_run_report(run)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kept", "advice"),
    [({}, "run the evaluation again"), ({"kind": "number"}, "posttrain regrade ")],
)
def test_results_without_counts_are_left_out_and_named(run, build, capsys, kept, advice):
    folder = run / "after/gsm8k"
    build.write_json(folder / "results.json", {"task": "gsm8k", **kept})
    page = build_run_report(run).read_text()
    assert "before" in page
    told = capsys.readouterr().err
    assert f"left out: {folder}: its results.json has no `value`, `problems`, `correct`" in told
    assert advice in told


def test_comparison_without_its_numbers_is_refused(run):
    path = run / "after/gsm8k/results.json"
    path.write_text(path.read_text().replace('"p_value"', '"p"'))
    with pytest.raises(DataError, match=r"results\.json: not a comparison .*p_value"):
        build_run_report(run)


def test_long_course_is_thinned_and_says_so(run, build):
    note = "Band: from their smallest to their largest"
    assert note not in read_report(run)
    lines = [build.training_line(step, 1.0) for step in range(1, 5001)]
    build.write_jsonl(run / "sft/metrics.jsonl", lines)
    html = read_report(run)
    assert note in html
    assert len(html) < 300_000


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("2026-01-03T10:00:00+00:00", "2026-01-03 10:00 UTC"),
        ("2026-01-03T10:00:00+08:00", "2026-01-03 10:00 UTC+08:00"),
        (0, "1970-01-01 00:00 UTC"),
        ("yesterday", "yesterday"),
    ],
)
def test_points_in_time_are_written_one_way(moment, text):
    assert format_time(moment) == text


@pytest.mark.parametrize(
    ("p_value", "text"), [(0.0312, "= 0.031"), (1.0, "= 1"), (0.00002, "< 0.0001")]
)
def test_p_values_are_never_written_as_zero(p_value, text):
    assert format_p_value(p_value) == text


def test_difference_of_nothing_has_no_sign():
    assert [format_points(x) for x in (0.0, -0.0001, -0.01, 0.02)] == ["0.0", "0.0", "−1.0", "+2.0"]


def test_stages_without_a_recipe_are_ordered_by_their_end(tmp_path, build):
    build.write_stage_json(tmp_path / "zeta", "sample-data", 1.0)
    build.write_stage_json(tmp_path / "alpha", "sft", 2.0)
    build.write_training(tmp_path / "beta", finished=False)
    assert [s.name for s in load_run(tmp_path).stages] == ["zeta", "alpha", "beta"]


def test_perplexity_and_sub_scores_are_shown(run, build):
    values = {"metric": "perplexity", "value": 12.5, "interval": None, "problems": 6}
    for stage in ("before", "after"):
        build.write_json(run / stage / "text" / "results.json", values)
        rows = [{"id": "t:1", "digest": "d", "nats": 2.0, "tokens": 4, "bytes": 9}]
        build.write_jsonl(run / stage / "text" / "records.jsonl", rows)
    results = json.loads((run / "after/gsm8k/results.json").read_text())
    score = {"problems": 40, "correct": 27, "accuracy": 0.675, "interval": [0.5, 0.8]}
    results["groups"] = {"level": {"Level <5>": score}}
    build.write_json(run / "after/gsm8k/results.json", results)
    html = build_run_report(run).read_text(encoding="utf-8")
    assert "text perplexity" in html
    assert "6 documents" in html
    assert "Level &lt;5&gt;" in html
    assert "Sample answers: text" not in html
