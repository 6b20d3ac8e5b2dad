"""`engine: verl`, as a user asks for it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow.parquet import read_table

from posttrain.grading.rewards import grade_answer
from posttrain.models.load import find_model
from tests.stages.test_mistakes import complain

RECIPE = """\
name: cluster
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: problems, kind: math, num: 60, seed: 1}
  - stage: grpo
    data: {sources: [{from_stage: problems}], split: {validation: 0.1}, max_tokens: 128}
    rollouts: 4
    prompts_per_rollout: 8
    completions: 4
    max_new_tokens: 32
    rewards: {answer: 1.0, format: 0.1}
    verl: {overrides: {trainer.resume_mode: disable}}
  - stage: evaluate
    tasks:
      - {task: gsm8k, data: {from_stage: problems, limit: 4}, max_new_tokens: 4, batch_size: 4}
"""
VERL = "stages.grpo.engine=verl"
# Stands where verl's own Python would: it tells its arguments.
PYTHON = '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n'


@pytest.fixture(autouse=True)
def recipe(tmp_path):
    (tmp_path / "cluster.yaml").write_text(RECIPE)


def test_from_a_recipe_to_verl_and_back(cli, tmp_path):
    output = f"output={tmp_path / 'my runs'}"
    result = cli("train", "cluster.yaml", VERL, output)
    assert result.returncode == 0, result.stderr
    assert "8 prompts (train_batch_size) x 4 answers (n) = 32" in result.stderr
    stage = tmp_path / "my runs" / "cluster" / "grpo"
    folder = stage / "verl"
    assert (folder / "next.txt").read_text() in result.stdout
    rows = read_table(folder / "train.parquet").to_pylist()
    watched = read_table(folder / "validation.parquet").to_pylist()
    assert len(rows) + len(watched) == 60
    assert set(rows[0]) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}

    # What run.sh hands on is what overrides.txt says, word for word.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    started = printed(result.stdout, "run.sh")
    told = subprocess.run(
        [*started, "trainer.nnodes=2"],
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()
    written = (folder / "overrides.txt").read_text().splitlines()
    assert told == ["-m", "verl.trainer.main_ppo", *written, "trainer.nnodes=2"]
    assert f"data.train_files='{folder / 'train.parquet'}'" in written
    assert "trainer.resume_mode=disable" in written

    assert grade_elsewhere(folder, rows[0]) == {"score": 1.1, "acc": 1.0, "format": 1.0}
    assert grade_answer("#### 12", rows[0]["reward_model"]["ground_truth"])[1]

    # It makes no model here: later stages say so, and what verl has made is taken up by name.
    evaluation = cli("run", "cluster.yaml", VERL, output)
    assert evaluation.stderr.count("unchanged, not run again") == 2
    complain(evaluation, 2, "needs the model of `grpo`")
    shutil.copytree(find_model("tiny"), stage / "verl_model")
    words = printed(result.stdout, "evaluate")[1:]
    assert words[:2] == ["evaluate", "RECIPE"]
    measured = cli("evaluate", "cluster.yaml", *words[2:], output)
    assert measured.returncode == 0, measured.stderr
    results = tmp_path / "my runs" / "cluster-verl" / "evaluate" / "gsm8k" / "results.json"
    assert json.loads(results.read_text())["problems"] == 4


def printed(text: str, word: str) -> list[str]:
    """The printed command that holds a word."""
    [line] = [line for line in text.splitlines() if line.startswith("  ") and word in line]
    return shlex.split(line)


def grade_elsewhere(folder: Path, row: dict) -> dict:
    """Let reward.py grade a right answer where only Python itself can be imported."""
    script = (
        "import json, runpy, sys\n"
        "reward = runpy.run_path(sys.argv[1])['compute_score']\n"
        "print(json.dumps(reward('rows', '#### ' + sys.argv[2], sys.argv[2])))\n"
    )
    answer = row["reward_model"]["ground_truth"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(folder / "reward.py"), answer],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def test_ppo_with_adapters(cli, tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(RECIPE.replace("stage: grpo", "stage: ppo"))
    result = cli("train", "cluster.yaml", "stages.ppo.engine=verl", "tuning=lora")
    assert result.returncode == 0, result.stderr
    words = (tmp_path / "runs/cluster/ppo/verl/overrides.txt").read_text().split()
    assert "algorithm.adv_estimator=gae" in words
    assert "actor_rollout_ref.model.lora_rank=16" in words
    merge = printed(result.stdout, "lora_adapter")
    assert merge[1] == "merge"
    assert merge[-1].startswith("out=")


def test_mistakes(cli, tmp_path):
    assert cli("train", "cluster.yaml", VERL).returncode == 0
    line = RECIPE.splitlines().index("  - stage: grpo") + 1
    for command, change, *parts in (
        ("check", "stages.grpo.verl.rollout_backend=hf", "removed its `hf` rollout"),
        ("check", "stages.grpo.verl.overrides.trainer.sav_freq=3", f":{line + 7}", "save_freq"),
        ("train", "tuning=qlora", "in four bits", "tuning=lora"),
        ("train", "stages.grpo.verl.gpus_per_node=3", "over 3 GPUs", "gpus_per_node"),
    ):
        complain(cli(command, "cluster.yaml", VERL, change), 2, *parts)
    # None of them has moved the earlier result aside.
    assert not (tmp_path / "runs/cluster/grpo.old-1").exists()
