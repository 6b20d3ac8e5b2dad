"""`tracking:` of a recipe, through the command line."""

import json
import math
import os
import subprocess

import pytest

from tests.stages.conftest import command, environment
from tests.stages.test_mistakes import complain
from tests.trackers import READERS, find_wandb_runs

RECIPE = """\
name: tracked
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
tracking: {tensorboard: false, wandb: {project: own}}
stages:
  - {stage: sample-data, name: rows, kind: math, num: 100, seed: 1}
  - stage: sft
    data: {sources: [{from_stage: rows}], split: {validation: 0.1}}
    steps: 4
    log_every_steps: 2
    batch_tokens: 512
"""


def run(folder, cache, *arguments, **changes):
    (folder / "tracked.yaml").write_text(RECIPE)
    return subprocess.run(
        command("run", "tracked.yaml", *arguments),
        cwd=folder,
        env=environment(cache) | changes,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_run_is_in_wandbs_own_file(tmp_path, cache_dir):
    pytest.importorskip("wandb")
    result = run(tmp_path, cache_dir)
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr
    stage = tmp_path / "runs/tracked/sft"
    written = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    (found,) = find_wandb_runs(stage)
    assert found["name"] == "tracked/sft"
    assert sorted(found["lines"]) == sorted({row["step"] for row in written})
    for row in written:
        for key, value in row.items():
            assert found["lines"][row["step"]].get(key, row["step"]) == pytest.approx(value), key
    last = found["lines"][4]
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second"} < set(last)
    assert last["validation_perplexity"] > 1
    assert not (stage / "tensorboard").exists()


def test_every_tracker_named_in_a_list_holds_the_run(tmp_path, cache_dir):
    names = list(READERS)
    for name in names:
        pytest.importorskip(name)
    result = run(tmp_path, cache_dir, f"tracking={names}", MLFLOW_TRACKING_URI="")
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr
    stage = tmp_path / "runs/tracked/sft"
    written = {}
    for line in (stage / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        written.setdefault(row.pop("step"), {}).update(row)
    assert sorted(written) == [1, 2, 4]
    for name, read in READERS.items():
        found = read(stage)
        for step, values in written.items():
            assert found[step] == pytest.approx(values, rel=1e-6), name
    assert written[4]["perplexity"] == pytest.approx(math.exp(written[4]["loss"]))
    assert 0 < written[4]["mfu"] < 1
    assert 50 * 2**20 < written[4]["memory_bytes"] < 24 * 2**30


def test_a_missing_package_is_found_before_anything_runs(tmp_path, cache_dir):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/wandb.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path / "hidden"), os.environ.get("PYTHONPATH")]))
    result = run(tmp_path, cache_dir, PYTHONPATH=path)
    complain(result, 5, "wandb is not installed", "pip install 'posttrain[wandb]'")
    assert not (tmp_path / "runs").exists()


def test_a_key_in_a_recipe_is_refused_and_not_repeated(cli, tmp_path):
    text = RECIPE.replace("project: own", "api_key: s3cret")
    (tmp_path / "tracked.yaml").write_text(text)
    result = cli("check", "tracked.yaml")
    complain(result, 2, "tracked.yaml:4", "WANDB_API_KEY", "delete it")
    assert "s3cret" not in result.stderr


def test_an_online_service_needs_its_key_before_anything_runs(tmp_path, cache_dir):
    pytest.importorskip("wandb")
    result = run(tmp_path, cache_dir, "tracking.wandb.mode=online", WANDB_API_KEY="")
    complain(result, 2, "WANDB_API_KEY is not set", "mode: offline")
    assert not (tmp_path / "runs").exists()
