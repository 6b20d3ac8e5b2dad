"""Preference pairs of a model's own answers: the stage, and the command on the model it made."""

import json
import os
import signal
import subprocess
import time

import pytest

from posttrain.data.formats.preference import convert_preference
from posttrain.files import load_json, load_jsonl
from posttrain.grading.rewards import grade_answer
from tests.stages.conftest import command, environment
from tests.stages.test_mistakes import complain

# So few problems that the model learns them by heart, and not quite.
RECIPE = """\
name: own
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: problems, kind: math, num: 12, seed: 1}
  - stage: sft
    data: {sources: [{from_stage: problems}]}
    steps: 60
    batch_tokens: 512
    learning_rate: 5e-3
  - stage: pairs
    data: {sources: [{from_stage: problems}]}
    rewards: {format: 0.1}
    completions: 6
    max_new_tokens: 40
    batch_size: 24
  - stage: dpo
    data: {sources: [{from_stage: pairs}]}
    steps: 2
    batch_tokens: 1024
"""
QUICK = ("compute.threads=1", "compute.precision=fp32", "compute.device=cpu", "max_new_tokens=24")


@pytest.fixture(scope="module")
def made(tmp_path_factory, cache_dir):
    """A folder with the finished run of the recipe."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.yaml").write_text(RECIPE)
    result = subprocess.run(
        command("run", "own.yaml"), cwd=folder, env=environment(cache_dir),
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def pairs(cli, made, tmp_path):
    """The command on the trained model, with the problems in the test's own folder."""
    problems = (made / "runs/own/problems/math.jsonl").read_text()
    (tmp_path / "problems.jsonl").write_text(problems)
    model = str(made / "runs/own/sft")

    def run(*more, out="pairs.jsonl"):
        return cli("pairs", model, "data=problems.jsonl", f"out={out}", *QUICK, *more)

    return run


def test_a_recipe_trains_on_its_own_models_answers(made):
    run = made / "runs" / "own"
    references = {
        row["question"]: row["answer"].rpartition("#### ")[2]
        for row in load_jsonl(run / "problems" / "math.jsonl")
    }
    rows = load_jsonl(run / "pairs" / "pairs.jsonl")
    report = load_json(run / "pairs" / "pairs.report.json")
    assert len(rows) == report["pairs"] > 0
    assert report["pairs"] + sum(report["left_out"].values()) == report["prompts"] == 12
    for row in rows:
        scores = row["metadata"]
        assert scores["chosen_score"] > scores["rejected_score"]
        reference = references[row["prompt"][-1]["content"]]
        for name in ("chosen", "rejected"):
            right, in_form = grade_answer(row[name], reference)
            # The mark for form also asks for an end, which the text does not show.
            assert scores[f"{name}_score"] in ((1.0, 1.1) if right else (0.0, 0.1))
            assert in_form or scores[f"{name}_score"] in (0.0, 1.0)
        convert_preference(row)
    trained = load_json(run / "dpo" / "data" / "report.json")
    assert trained["examples"]["train"] == len(rows)
    assert (run / "dpo" / "final" / "model.safetensors").is_file()


def test_a_finished_file_is_not_made_again(pairs, tmp_path):
    first = pairs("completions=4")
    assert first.returncode == 0, first.stderr
    assert "prompts left out: all answers are worth the same" in first.stderr
    before = (tmp_path / "pairs.jsonl").read_text()
    again = pairs("completions=4")
    assert again.returncode == 0, again.stderr
    assert "is there already" in again.stderr
    assert (tmp_path / "pairs.jsonl").read_text() == before
    complain(pairs("completions=4", "seed=1"), 2, "pairs.jsonl", "give another out=")
    assert (tmp_path / "pairs.jsonl").read_text() == before


def test_a_killed_pass_goes_on_to_the_same_pairs(pairs, made, tmp_path, cache_dir):
    settings = ("completions=16", "batch_size=16")  # a chunk for each prompt
    assert pairs(*settings, out="whole.jsonl").returncode == 0
    part = tmp_path / "pairs.jsonl.part"
    arguments = ("data=problems.jsonl", "out=pairs.jsonl", *QUICK, *settings)
    with subprocess.Popen(
        command("pairs", str(made / "runs/own/sft"), *arguments),
        cwd=tmp_path, env=environment(cache_dir), stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (
            part.is_file() and part.read_text().count("\n") > 2
        ):
            time.sleep(0.01)
        process.kill()
    assert not (tmp_path / "pairs.jsonl").exists()
    with part.open("a") as file:
        file.write('{"prompts": 1, "rows": [{"half')
    result = pairs(*settings)
    assert result.returncode == 0, result.stderr
    assert "of 12 chunks are there already" in result.stderr
    assert (tmp_path / "pairs.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not part.exists()


def test_ctrl_c_keeps_the_answers_and_says_how_to_go_on(made, pairs, tmp_path, cache_dir):
    part = tmp_path / "pairs.jsonl.part"
    arguments = ("data=problems.jsonl", "out=pairs.jsonl", *QUICK, "completions=400")
    with subprocess.Popen(
        command("pairs", str(made / "runs/own/sft"), *arguments),
        cwd=tmp_path, env=environment(cache_dir), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (
            part.is_file() and part.read_text().count("\n") > 1
        ):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "the answers so far are kept; go on with: " in said.splitlines()[-1]


def test_no_data(cli):
    complain(cli("pairs", "tiny", "out=pairs.jsonl"), 2, "`data` is missing")


def test_prompts_without_an_answer_to_grade_against(cli, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Say something."}) + "\n")
    result = cli("pairs", "tiny", "data=rows.jsonl", "out=pairs.jsonl", *QUICK)
    complain(result, 3, "rows.jsonl:1", "no reference answer")


def test_a_model_that_is_never_right(cli, tmp_path):
    row = {"question": "1 + 1?", "answer": "2\n#### 2"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    result = cli(
        "pairs", "tiny", "data=rows.jsonl", "out=pairs.jsonl", "completions=2",
        "compute.threads=1", "compute.precision=fp32", "max_new_tokens=1",
    )  # fmt: skip
    complain(result, 3, "no prompt gave a pair", "raise completions or temperature")
    assert not (tmp_path / "pairs.jsonl").exists()


def test_the_data_itself_as_place(pairs, tmp_path):
    before = (tmp_path / "problems.jsonl").read_text()
    complain(pairs(out="problems.jsonl"), 2, "file of the data")
    assert (tmp_path / "problems.jsonl").read_text() == before


def test_a_reward_stage_without_a_recipe(pairs):
    complain(pairs("rewards.model_from=reward"), 2, "rewards.model=DIR")
