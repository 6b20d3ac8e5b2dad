"""`report`: a run's pages made anew, and the folder of reports that runs share."""

import json

from tests.stages.test_mistakes import complain


def write_run(folder):
    task = folder / "measured" / "gsm8k"
    task.mkdir(parents=True)
    stage = {"stage": "evaluate", "name": "measured"}
    (folder / "config.json").write_text(json.dumps({"name": "mine", "stages": [stage]}))
    row = {"id": "t:1", "reference": "7", "prompt": [], "completion": "#### 7", "correct": True}
    (task / "records.jsonl").write_text(json.dumps(row) + "\n")
    results = {"metric": "accuracy", "value": 1.0, "correct": 1, "problems": 1, "accuracy": 1.0}
    about = {"task": "gsm8k", "name": "gsm8k", "interval": [0.2, 1.0]}
    (task / "results.json").write_text(json.dumps({**about, **results}))


def test_pages_and_the_shared_folder(cli, tmp_path):
    write_run(tmp_path / "runs/mine")
    result = cli("report", "runs/mine", "--to", "docs/reports", "--answers-to", "outputs/eval")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs/mine/measured/gsm8k/report.html").is_file()
    names = {path.name for path in (tmp_path / "docs/reports").glob("mine-*")}
    assert names == {f"mine-measured-gsm8k.{kind}" for kind in ("md", "csv", "html")}
    assert "mine" in (tmp_path / "docs/reports/index.md").read_text()
    answers = json.loads((tmp_path / "outputs/eval/gsm8k/mine-measured.json").read_text())
    assert answers["problems"][0]["completion"] == "#### 7"


def test_a_place_that_cannot_be_written(cli, tmp_path):
    write_run(tmp_path / "runs/mine")
    (tmp_path / "docs").write_text("a file")
    complain(cli("report", "runs/mine", "--to", "docs/reports"), 1, "cannot write")
