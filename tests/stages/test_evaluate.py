"""Every evaluation task through the command line, on the tiny model."""

import csv
import json

import pytest

from posttrain.files import write_jsonl
from posttrain.samples import GENERATORS
from tests.stages.test_mistakes import complain

TASKS = """\
      - {task: gsm8k, data: {path: math.jsonl}, max_new_tokens: 8, cot: true}
      - {task: mcq, name: letter, data: {path: mcq.jsonl}, max_new_tokens: 4}
      - {task: mcq, name: likely, method: likelihood, data: {path: mcq.jsonl}}
      - {task: tool_calls, data: {path: tools.jsonl}, max_new_tokens: 8}
      - {task: perplexity, data: {path: text.txt}, documents: paragraph, window_tokens: 24,
         overlap_tokens: 8}
"""
LABELS = ("gsm8k", "letter", "likely", "tool_calls", "perplexity")
RECIPE = f"""\
name: measured
model: {{path: tiny}}
compute: {{threads: 1, precision: fp32, device: cpu}}
stages:
  - stage: evaluate
    name: first
    tasks: &tasks
{TASKS}
  - {{stage: evaluate, name: second, compare_to: first, tasks: *tasks}}
"""
FORMULAS = [
    {"problem": "What is $1+1$?", "solution": r"It is $\boxed{2}$.", "level": "Level 1"},
    {"problem": "What is $1+2$?", "answer": "3", "level": "Level 2"},
]


@pytest.fixture
def rows(tmp_path):
    """Small files of every task's rows."""
    for kind in ("math", "mcq", "tools"):
        write_jsonl(tmp_path / f"{kind}.jsonl", GENERATORS[kind](6, 0))
    write_jsonl(tmp_path / "formulas.jsonl", FORMULAS)
    texts = [f"The bell of house {n} rang. " * n for n in range(1, 6)]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    return tmp_path


def recipe(folder, tasks):
    path = folder / "one.yaml"
    path.write_text(
        "name: one\nmodel: {path: tiny}\ncompute: {threads: 1, precision: fp32, device: cpu}\n"
        f"stages:\n  - stage: evaluate\n    tasks:\n{tasks}"
    )
    return str(path)


def test_every_task_leaves_records_results_and_reports(cli, rows):
    (rows / "measured.yaml").write_text(RECIPE)
    result = cli("run", "measured.yaml")
    assert result.returncode == 0, result.stderr
    run = rows / "runs/measured"
    for label in LABELS:
        folder = run / "second" / label
        results = json.loads((folder / "results.json").read_text())
        records = [json.loads(x) for x in (folder / "records.jsonl").read_text().splitlines()]
        with (folder / "records.csv").open(newline="") as file:
            assert [row["id"] for row in csv.DictReader(file)] == [r["id"] for r in records]
        assert results["problems"] == len(records)
        assert results["comparison"]["difference"] == 0
        assert results["comparison"]["other"] == "first"
        assert "## Against first" in (folder / "report.md").read_text()
        better = label != "perplexity"
        assert results["higher_is_better"] == better
        assert results["metric"] == ("accuracy" if better else "perplexity")
        low, high = results["interval"]
        assert low <= results["value"] <= high
        if better:
            assert results["correct"] == sum(record["correct"] for record in records)
            wrong = [record for record in records if not record["correct"]]
            assert all(record["error"] for record in wrong)
            assert sum(results["errors"].values()) == len(wrong)
    assert (run / "report.html").is_file()
    assert all((run / "second" / label / "report.html").is_file() for label in LABELS)
    assert "perplexity" in result.stdout
    again = cli("run", "measured.yaml")
    assert again.returncode == 0, again.stderr
    compared = cli("compare", "runs/measured/first", "runs/measured/second")
    assert compared.returncode == 0, compared.stderr
    for label in LABELS:
        assert label in compared.stdout
    assert "bits per byte" in compared.stdout


def test_math_is_graded_with_sub_scores(cli, rows):
    pytest.importorskip("math_verify")
    path = recipe(rows, "      - {task: math, data: {path: formulas.jsonl}, max_new_tokens: 4}\n")
    result = cli("evaluate", path)
    assert result.returncode == 0, result.stderr
    results = json.loads((rows / "runs/one/evaluate/math/results.json").read_text())
    assert set(results["groups"]["level"]) == {"Level 1", "Level 2"}


def test_a_task_of_no_known_kind(cli, rows):
    path = recipe(rows, "      - {task: perplexty, data: {path: text.txt}}\n")
    complain(cli("run", path), 2, "one.yaml:7", "`perplexty` is no task; did you mean `perplexity`")


def test_two_tasks_of_one_name(cli, rows):
    one = "      - {task: mcq, data: {path: mcq.jsonl}}\n"
    complain(cli("run", recipe(rows, one + one)), 2, "two tasks are named `mcq`", "`name`")


def test_an_unusable_question(cli, rows):
    with (rows / "mcq.jsonl").open("a") as file:
        file.write('{"question": "?", "options": ["x", "y"], "answer": "Q"}\n')
    path = recipe(rows, "      - {task: mcq, data: {path: mcq.jsonl}}\n")
    complain(cli("run", path), 3, "mcq.jsonl:7", "names no option")
    assert not (rows / "runs/one/evaluate").exists()


def test_a_missing_file_of_problems(cli, rows):
    path = recipe(rows, "      - {task: perplexity, data: {path: gone.txt}}\n")
    complain(cli("run", path), 3, "gone.txt", "no such file")
