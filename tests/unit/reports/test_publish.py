import csv
import io
import json

import pytest

from posttrain.errors import DataError
from posttrain.reports.publish import publish_answers, publish_run


def read_index(folder):
    text = (folder / "index.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def published(run, tmp_path):
    for stage in ("before", "after"):
        path = run / stage / "gsm8k/results.json"
        results = json.loads(path.read_text())
        path.write_text(json.dumps({**results, "metric": "accuracy", "value": results["accuracy"]}))
    folder = tmp_path / "docs/reports"
    publish_run(run, folder)
    return folder


def test_each_evaluation_is_there_as_text_table_and_page(published, run):
    names = ["demo-after-gsm8k", "demo-before-gsm8k"]
    files = {f"{name}.{kind}" for name in names for kind in ("md", "csv", "html")}
    index = {"index.csv", "index.md", "index.html"}
    found = {path.name for path in published.iterdir()}
    assert found == files | index
    assert len((published / f"{names[0]}.csv").read_text().splitlines()) > 40
    results = json.loads((run / "after/gsm8k/results.json").read_text())
    row = read_index(published)[0]
    assert (row["report"], float(row["value"])) == (names[0], results["value"])
    assert "27 of 40" in (published / "index.md").read_text()
    assert 'href="demo-after-gsm8k.html"' in (published / "index.html").read_text()


def test_other_runs_stay_in_the_index_and_the_same_run_is_replaced(published, run, build):
    other = run.rename(run.with_name("other"))
    config = json.loads((other / "config.json").read_text())
    build.write_json(other / "config.json", {**config, "name": "other"})
    publish_run(other, published)
    publish_run(other, published)
    rows = [(row["run"], row["stage"]) for row in read_index(published)]
    assert rows == [("demo", "after"), ("demo", "before"), ("other", "after"), ("other", "before")]


def test_results_that_lack_their_counts_keep_no_other_report_from_being_written(run, tmp_path):
    path = run / "after/gsm8k/results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps({"task": "gsm8k", "accuracy": results["accuracy"]}))
    pages = publish_run(run, tmp_path / "out")
    assert [page.name for page in pages] == ["demo-before-gsm8k.html"]
    # The earliest results did not name their metric.
    row = read_index(tmp_path / "out")[0]
    assert (row["metric"], row["value"]) == ("accuracy", "0.25")


def test_an_index_of_something_else_is_left_alone(published, run):
    (published / "index.csv").write_text("name,age\nTom,7\n")
    with pytest.raises(DataError, match=r"index\.csv: not an index"):
        publish_run(run, published)
    assert (published / "index.csv").read_text() == "name,age\nTom,7\n"


def test_answers_are_one_file_per_task_and_run(run, tmp_path, build):
    row = build.make_record(1, True, completion="half \ud83d of a pair")
    (run / "after/gsm8k/records.jsonl").write_text(json.dumps(row) + "\n")
    files = publish_answers(run, tmp_path / "outputs/eval")
    names = [path.relative_to(tmp_path).as_posix() for path in files]
    assert names == ["outputs/eval/gsm8k/demo-after.json", "outputs/eval/gsm8k/demo-before.json"]
    found = json.loads(files[0].read_text())
    assert (found["run"], found["stage"], found["problems"]) == ("demo", "after", [row])
    assert found["results"]["problems"] == 40


def test_a_stage_is_named_by_its_run_and_what_no_recipe_made_is_there_too(run, tmp_path):
    (run / "after").rename(run / "measured")
    (run / "before").rename(run / "before.old-1")
    for path in (run, run / "measured", run / "measured/gsm8k"):
        (file,) = publish_answers(path, tmp_path / "eval")
        assert file == tmp_path / "eval/gsm8k/demo-measured.json"
    alone = (run / "measured").rename(tmp_path / "scores")
    (file,) = publish_answers(alone, tmp_path / "eval")
    assert file == tmp_path / "eval/gsm8k/scores.json"


def test_a_run_without_evaluations_is_one_clear_line(run, tmp_path):
    for stage in ("before", "after"):
        (run / stage / "gsm8k/results.json").unlink()
    with pytest.raises(DataError, match="no finished evaluation"):
        publish_run(run, tmp_path / "reports")
    assert not (tmp_path / "reports").exists()
