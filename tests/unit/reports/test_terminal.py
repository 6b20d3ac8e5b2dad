import re
import shutil

from posttrain.reports.folders import load_run
from posttrain.reports.summary import collect_outcomes, list_score_rows
from posttrain.reports.terminal import render_run_table, to_text


def lines_of(run):
    """Label -> rest of the line, spacing folded."""
    lines = (re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in table_of(run))
    return {parts[0]: parts[1] for parts in lines if len(parts) == 2}


def table_of(run):
    return render_run_table(run).split("\n")


def test_table_has_a_line_for_every_result(run):
    assert lines_of(run) == {
        "Accuracy, base": "25.0 % (11.1–22.2 %)",
        "Accuracy, tuned": "67.5 % (11.1–22.2 %)",
        "Paired difference": "+42.5 points (+25.0 to +57.0)",
        "p value, exact McNemar": "0.00031; 19 gained, 2 lost of 40",
        "Loss, first to last": "3.100 to 0.500",
        "Tokens per second": "4,100 (1,400 supervised)",
        "Supervised tokens": "170,115",
        "Peak memory": "3.0 GiB",
        "Training time": "3 min 20 s",
        "Total time": "4 min 20 s",
    }


def test_table_is_plain_text_of_at_most_100_columns(run, monkeypatch, build):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("FORCE_COLOR", "1")
    build.write_evaluation(
        run / "before", [True, False], label="a-task-with-a-rather-long-name-of-its-own"
    )
    build.write_evaluation(
        run / "after", [True, False], label="a-task-with-a-rather-long-name-of-its-own"
    )
    text = render_run_table(run)
    assert "\x1b" not in text
    assert max(len(line) for line in text.split("\n")) <= 100


def test_several_tasks_have_a_column_each_and_training_its_own_table(run, build):
    build.write_evaluation(run / "before", [True, False], label="other")
    build.write_evaluation(run / "after", [True, True], label="other")
    assert re.search(r"gsm8k\s+other", table_of(run)[0])
    lines = lines_of(run)
    assert re.fullmatch(r"67\.5 % \(\S+ %\)\s+100\.0 % \(\S+ %\)", lines["Accuracy, tuned"])
    assert lines["Supervised tokens"] == "170,115"


def test_unfinished_run_says_so(run, build):
    shutil.rmtree(run / "after")
    shutil.rmtree(run / "sft")
    build.write_training(run / "sft", steps=30, finished=False)
    assert lines_of(run)["Training time"] == "1 min 00 s so far"
    assert table_of(run)[-1] == "Not finished: sft is unfinished, after is not started"


def test_two_training_stages_add_up(run):
    shutil.copytree(run / "sft", run / "more")
    config = (run / "config.json").read_text()
    more = '{"stage": "sft", "name": "more"}, {"stage": "evaluate", "name": "after"'
    (run / "config.json").write_text(config.replace('{"stage": "evaluate", "name": "after"', more))
    lines = lines_of(run)
    assert lines["Supervised tokens"] == "340,230"
    assert lines["Training time"] == "6 min 40 s"


def test_square_brackets_are_text_and_not_markup():
    assert to_text("[red]x[/red] :smile:") == "[red]x[/red] :smile:"


def add_perplexity(run, build):
    """Add a perplexity task to both evaluations of a run."""
    for stage, value, comparison in (
        ("before", 12.5, None),
        (
            "after",
            9.25,
            {
                "other": "before",
                "metric": "bits_per_byte",
                "difference": -0.25,
                "interval": [-0.3, -0.2],
                "p_value": 0.001,
                "wins": 5,
                "losses": 1,
                "total": 6,
            },
        ),
    ):
        results = {
            "task": "perplexity",
            "name": "text",
            "metric": "perplexity",
            "value": value,
            "interval": [value - 1, value + 1],
            "higher_is_better": False,
            "problems": 6,
            "comparison": comparison,
        }
        build.write_json(run / stage / "text" / "results.json", results)
        build.write_jsonl(run / stage / "text" / "records.jsonl", [{"id": "t:1", "nats": 1.0}])


def test_perplexity_has_lines_of_its_own(run, build):
    add_perplexity(run, build)
    rows = {r.label: r.cells for r in list_score_rows(collect_outcomes(load_run(run)))}
    assert rows["Perplexity, base"] == ("", "12.5 (11.5–13.5)")
    assert rows["Perplexity, tuned"] == ("", "9.25 (8.25–10.25)")
    assert rows["Paired difference"][0].startswith("+42.5 points")
    assert rows["Paired difference"][1] == "−0.2500 bits per byte (−0.3000 to −0.2000)"
    assert rows["p value, paired t"] == ("", "0.001; 5 better, 1 worse of 6")
    assert list(rows)[:2] == ["Accuracy, base", "Accuracy, tuned"]
    assert collect_outcomes(load_run(run))[1].difference.direction == "better"
    assert "Perplexity, base" in render_run_table(run)


def test_many_tasks_have_a_row_each(run, build):
    add_perplexity(run, build)
    for label in ("one", "two"):
        for stage in ("before", "after"):
            build.write_evaluation(run / stage, [True, False], label=label)
    lines = [line.split() for line in render_run_table(run).split("\n")]
    named = [line[0] for line in lines if line[1:2] in (["accuracy"], ["perplexity"])]
    assert sorted(named) == ["gsm8k", "one", "text", "two"]
