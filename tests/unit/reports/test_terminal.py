import re
import shutil

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
