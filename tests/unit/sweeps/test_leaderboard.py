import csv
import math

from posttrain.config.sweep import SweepConfig
from posttrain.files import write_json, write_jsonl
from posttrain.sweeps.leaderboard import TrialRow, rank_trials, write_leaderboard
from posttrain.sweeps.metrics import collect_metrics

ROWS = [
    TrialRow(0, "complete", 0.5, {"lora.rank": "8"}, 61.0),
    TrialRow(1, "failed", None, {"lora.rank": "16"}, 1.0, "loss is nan | <b>"),
    TrialRow(2, "complete", 0.25, {"lora.rank": "32"}, 2.0),
    TrialRow(3, "running", None, {"lora.rank": "64"}),
]


def config(metric):
    return SweepConfig(search={"lora.rank": (8, 16, 32, 64)}, metric=metric)


def test_trials_are_ranked_by_direction_and_those_without_value_come_last():
    assert [row.number for row in rank_trials(ROWS, config("sft.validation_loss"))] == [2, 0, 1, 3]
    assert [row.number for row in rank_trials(ROWS, config("tuned.gsm8k.accuracy"))] == [0, 2, 1, 3]


def test_table_csv_markdown_and_page_agree(tmp_path):
    table = write_leaderboard(tmp_path, ROWS, config("sft.validation_loss"))
    with (tmp_path / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [
        "trial-0002",
        "trial-0000",
        "trial-0001",
        "trial-0003",
    ]
    assert rows[0]["sft.validation_loss"] == "0.25"
    assert rows[2] | {} == rows[2] | {"state": "failed", "error": "loss is nan | <b>"}
    assert "trial-0002" in table
    assert "failed: loss is nan" in table
    markdown = (tmp_path / "leaderboard.md").read_text()
    assert "2 trials complete, 1 failed" in markdown
    assert "nan \\| <b>" in markdown
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert "best so far" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def test_metrics_of_a_run_are_found_by_stage_and_task(tmp_path):
    stages = [{"name": "sft", "stage": "sft"}, {"name": "tuned", "stage": "evaluate"}]
    write_json(tmp_path / "config.json", {"stages": stages})
    lines = [{"step": 1, "validation_loss": 2.0}, {"step": 2, "validation_loss": 1.5, "loss": 1.0}]
    write_jsonl(tmp_path / "sft/metrics.jsonl", lines)
    write_json(tmp_path / "sft/stage.json", {"summary": {"steps": 2, "loss_last": 0.5}})
    results = {"accuracy": 0.25, "task": "gsm8k", "interval": [0, 1], "seconds": math.nan}
    write_json(tmp_path / "tuned/math/results.json", results | {"comparison": {"difference": 0.1}})
    assert collect_metrics(tmp_path) == {
        "sft.step": 2.0,
        "sft.validation_loss": 1.5,
        "sft.loss": 1.0,
        "sft.steps": 2.0,
        "sft.loss_last": 0.5,
        "tuned.math.accuracy": 0.25,
        "tuned.math.comparison.difference": 0.1,
    }
