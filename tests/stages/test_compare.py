"""`compare` with any number of evaluations."""

import json

from tests.stages.test_mistakes import complain


def write(folder, marks):
    folder.mkdir(parents=True)
    rows = [
        {"id": f"test:{n}", "reference": "7", "prompt": [], "completion": "", "correct": mark}
        for n, mark in enumerate(marks)
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "results.json").write_text('{"metric": "accuracy"}')


def test_three_evaluations_in_one_table_and_page(cli, tmp_path):
    for name, right in {"a": 4, "b": 28, "c": 5}.items():
        write(tmp_path / name / "gsm8k", [n < right for n in range(30)])
    tables = ["--csv", "abc.csv", "--markdown", "abc.md"]
    result = cli("compare", "a", "b", "c", "--html", "abc.html", *tables)
    assert result.returncode == 0, result.stderr
    assert "+80.0 points" in result.stdout
    assert result.stdout.count("no difference shown") == 1
    assert "3 evaluations" in (tmp_path / "abc.html").read_text()
    assert len((tmp_path / "abc.csv").read_text().splitlines()) == 4
    assert (tmp_path / "abc.md").read_text().count("**") == 2


def test_two_evaluations_as_tables(cli, tmp_path):
    for name, right in {"a": 4, "b": 28}.items():
        write(tmp_path / name / "gsm8k", [n < right for n in range(30)])
    result = cli("compare", "a", "b", "--markdown", "out/ab.md")
    assert result.returncode == 0, result.stderr
    assert "**93.3 %" in (tmp_path / "out/ab.md").read_text()


def test_one_evaluation_alone(cli, tmp_path):
    write(tmp_path / "a" / "gsm8k", [True])
    complain(cli("compare", "a"), 2, "with what?", "at least two")


def test_a_folder_without_results(cli, tmp_path):
    for name in "ab":
        write(tmp_path / name / "gsm8k", [True])
    (tmp_path / "c").mkdir()
    complain(cli("compare", "a", "b", "c"), 3, "c: holds no run")


def test_one_evaluation_twice(cli, tmp_path):
    for name in "ab":
        write(tmp_path / name / "gsm8k", [True])
    complain(cli("compare", "a", "b", "a"), 3, "compared with itself")
