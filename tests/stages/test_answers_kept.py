"""Answers are kept as they come: after any stop the same command goes on, and ends the same."""

import json
import os
import signal
import time

import pytest

from posttrain.files import load_jsonl, write_jsonl
from posttrain.samples import GENERATORS
from tests.stages.conftest import environment
from tests.stages.started import Forked
from tests.stages.test_mistakes import complain

RECIPE = """\
name: NAME
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - stage: evaluate
    tasks:
      - {task: gsm8k, data: {path: math.jsonl}, max_new_tokens: 100, batch_size: 4, samples: 2,
         temperature: 1, seed: 5}
"""
OWN = """\
kind: number
data: {path: ../math.jsonl, limit: 4}
max_new_tokens: 4
"""


@pytest.fixture
def place(tmp_path):
    write_jsonl(tmp_path / "math.jsonl", GENERATORS["math"](24, 0))
    for name in ("killed", "unbroken"):
        (tmp_path / f"{name}.yaml").write_text(RECIPE.replace("NAME", name))
    return tmp_path


def begin(folder, cache_dir, place, *arguments):
    place.mkdir()
    return Forked(list(arguments), place, folder=folder, environment=environment(cache_dir))


def wait_for_lines(path, number, process):
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < number:
        assert process.is_alive(), "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def read(path):
    """Records without what the clock says."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in load_jsonl(path)]


def test_kill_9_costs_the_batch_in_flight_and_the_end_is_that_of_an_unbroken_run(
    cli, place, cache_dir
):
    records = place / "runs/killed/evaluate/gsm8k/records.jsonl"
    process = begin(place, cache_dir, place / "streams", "evaluate", "killed.yaml")
    wait_for_lines(records, 9, process)
    os.kill(process.pid, signal.SIGKILL)
    process.end()
    kept = records.read_bytes()
    assert not records.with_name("results.json").exists()
    count = kept.count(b"\n")
    assert 9 <= count < 48
    records.write_bytes(kept + b'{"id": "math.jsonl:1", "comp')  # as a full disk leaves it

    again = cli("evaluate", "killed.yaml")
    assert again.returncode == 0, again.stderr
    assert "the last record was half written and is done again" in again.stderr
    assert f"gsm8k: going on behind {count} records" in again.stderr
    unbroken = cli("evaluate", "unbroken.yaml")
    assert unbroken.returncode == 0, unbroken.stderr
    other = place / "runs/unbroken/evaluate/gsm8k/records.jsonl"
    assert read(records) == read(other)
    names = [(line["id"], line["sample"]) for line in read(records)]
    assert names == [(f"math.jsonl:{n}", s) for n in range(1, 25) for s in (0, 1)]
    results = json.loads(records.with_name("results.json").read_text())
    assert results["resumed"] == count
    assert (results["problems"], results["samples"], results["unscored"]) == (24, 2, 0)
    texts = {line["completion"] for line in read(records)}
    assert len(texts) == 48  # each answer has a seed of its own


def test_a_stopped_measurement_of_a_model_says_how_to_go_on(cli, place, cache_dir):
    arguments = ("evaluate", "tiny", "--tasks", "gsm8k", "tasks.gsm8k.data.path=math.jsonl",
                 "tasks.gsm8k.max_new_tokens=100", "tasks.gsm8k.batch_size=4",
                 "compute.threads=1", "compute.precision=fp32", "out=measured")  # fmt: skip
    records = place / "measured/gsm8k/records.jsonl"
    process = begin(place, cache_dir, place / "streams", *arguments)
    wait_for_lines(records, 5, process)
    os.kill(process.pid, signal.SIGTERM)
    complain(process.wait(60), 130, "the answers so far are kept", "go on with: posttrain evaluate")
    count = len(load_jsonl(records))
    again = cli(*arguments)
    assert again.returncode == 0, again.stderr
    assert f"going on behind {count} records" in again.stderr
    assert "accuracy" in again.stdout
    before = records.read_bytes()
    assert cli(*arguments).returncode == 0  # everything is there
    assert records.read_bytes() == before
    other = cli(*arguments, "tasks.gsm8k.max_new_tokens=3")
    assert other.returncode == 0, other.stderr
    assert "holds answers of other settings (max_new_tokens)" in other.stderr
    assert (place / "measured/gsm8k.old-1/records.jsonl").read_bytes() == before


def test_saved_answers_are_graded_again_without_a_model(cli, place):
    (place / "tasks").mkdir()
    (place / "tasks/mine.yaml").write_text(OWN)
    (place / "one.yaml").write_text(
        "name: one\nmodel: {path: tiny}\ncompute: {threads: 1, precision: fp32, device: cpu}\n"
        "stages:\n"
        "  - {stage: evaluate, name: first, tasks: &tasks [mine]}\n"
        "  - {stage: evaluate, name: second, compare_to: first, tasks: *tasks}\n"
    )
    assert cli("run", "one.yaml").returncode == 0
    folder = place / "runs/one/second/mine"
    lines = load_jsonl(folder / "records.jsonl")
    for number, line in enumerate(lines):
        right = f"#### {line['reference']}" if number < 3 else "I cannot say"
        line |= {"completion": right, "finished": True}
    write_jsonl(folder / "records.jsonl", lines)
    old = (folder / "records.jsonl").read_bytes()

    result = cli("regrade", "runs/one")
    assert result.returncode == 0, result.stderr
    assert "first/mine: 0 of 4 verdicts changed" in result.stdout
    said = result.stdout.split("second/mine: ")[1]
    assert said.startswith(("4 of 4 verdicts changed", "3 of 4 verdicts changed"))
    assert "math.jsonl:1: " in said
    assert "-> right" in said
    results = json.loads((folder / "results.json").read_text())
    assert (results["correct"], results["accuracy"]) == (3, 0.75)
    assert results["comparison"]["wins"] == 3
    assert "3 of 4 right" in (folder / "report.md").read_text()
    assert (folder / "records.jsonl.before").read_bytes() == old
    assert "75.0 %" in (place / "runs/one/report.html").read_text()

    loose = cli("regrade", "runs/one/second/mine", r"answer_pattern=cannot (\w+)")
    assert "4 of 4 verdicts changed" in loose.stdout
    assert load_jsonl(folder / "records.jsonl")[3]["answer"] == "say"
    complain(cli("regrade", str(folder), "max_new_tokens=9"), 2, "no setting of grading")
    complain(cli("regrade", str(place / "tasks")), 3, "no saved answers")
