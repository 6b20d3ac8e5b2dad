"""`posttrain sweep`: trials are runs, a killed sweep goes on, mistakes are found early."""

import csv
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from posttrain.config.load import load_recipe
from posttrain.files import load_json
from tests.stages.conftest import command, environment
from tests.stages.test_mistakes import complain

RECIPE = """\
name: small
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: train-data, kind: math, num: 200, seed: 1}
  - {stage: sample-data, name: test-data, kind: math, num: 4, seed: 2}
  - stage: sft
    data: {sources: [{from_stage: train-data}], split: {validation: 0.05}}
    steps: 4
    batch_tokens: 1024
    log_every_steps: 2
    save_every_steps: 2
  - stage: evaluate
    name: tuned
    tasks: [{task: gsm8k, data: {from_stage: test-data}, max_new_tokens: 4, batch_size: 4}]
"""
SWEEP = {
    "recipe": "small.yaml",
    "search": {
        "stages.sft.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "stages.sft.schedule": ["cosine", "constant"],
    },
    "metric": "sft.validation_loss",
    "trials": 3,
}


@pytest.fixture
def sweep(tmp_path):
    """Write recipe and sweep, the latter with changes."""

    def write(**changes) -> str:
        (tmp_path / "small.yaml").write_text(RECIPE)
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False))
        return "sweep.yaml"

    return write


def read_board(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def start_and_kill(arguments: list[str], folder: Path, cache: Path, seen: Path) -> None:
    """Kill -9 a command as soon as it has written ``seen``."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.time() + 200
        while not seen.exists() and process.poll() is None and time.time() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert seen.exists()


def test_a_killed_sweep_goes_on_and_ends_as_an_unbroken_one(cli, sweep, tmp_path, cache_dir):
    file = sweep()
    broken = tmp_path / "runs/small-sweep"
    start_and_kill(["sweep", file], tmp_path, cache_dir, broken / "trial-0001/sft/metrics.jsonl")
    result = cli("sweep", file)
    assert result.returncode == 0, result.stderr
    assert "trial 1: was cut off, goes on" in result.stderr
    assert "trial 0:" not in result.stderr
    whole = cli("sweep", file, "sweep.name=whole")
    assert whole.returncode == 0, whole.stderr
    keys = ("trial", "state", "sft.validation_loss", *SWEEP["search"])
    boards = [
        [{key: row[key] for key in keys} for row in read_board(folder)]
        for folder in (broken, tmp_path / "runs/whole")
    ]
    assert boards[0] == boards[1]
    assert [row["state"] for row in boards[0]] == ["complete"] * 3
    values = [float(row["sft.validation_loss"]) for row in boards[0]]
    assert values == sorted(values)
    assert len(set(values)) == 3
    check_best(broken, boards[0][0])
    # What comes before the training is the same in every trial and done once.
    assert whole.stderr.count("made 200 rows of math") == 1
    again = cli("sweep", file)
    assert "stage sft: sft" not in again.stderr
    assert "trial-0002" in again.stdout


def check_best(folder: Path, row: dict[str, str]) -> None:
    """The best trial's recipe is what the best trial ran."""
    found = load_recipe(folder / "best.yaml").model_dump(mode="json")
    ran = load_json(folder / row["trial"] / "config.json")
    for key in ("model", "stages", "tuning", "lora", "seed", "compute"):
        assert found[key] == ran[key]
    assert found["stages"][2]["learning_rate"] == float(row["stages.sft.learning_rate"])


def test_a_failed_trial_is_recorded_and_the_sweep_goes_on(cli, sweep, tmp_path):
    search = {"stages.sft.batch_tokens": [16, 1024]}  # no example fits into 16 tokens
    result = cli("sweep", "small.yaml", sweep(search=search, sampler="grid", recipe=None))
    assert result.returncode == 0, result.stderr
    good, failed = read_board(tmp_path / "runs/small-sweep")
    assert (good["state"], good["stages.sft.batch_tokens"]) == ("complete", "1024")
    assert (failed["state"], failed["trial"]) == ("failed", "trial-0000")
    assert "batch_tokens" in failed["error"]
    assert failed["error"] in result.stderr


def test_too_many_failures_in_a_row_stop_a_sweep(cli, sweep, tmp_path):
    search = {"stages.sft.batch_tokens": [16, 17, 18]}
    file = sweep(search=search, sampler="grid", max_failures=2)
    complain(cli("sweep", file), 1, "2 trials in a row failed", "batch_tokens", "posttrain")
    assert len(read_board(tmp_path / "runs/small-sweep")) == 2


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"search": {"stages.sft.learning_rat": [1e-3]}},
            ("sweep.yaml:3", "unknown key", "did you mean `learning_rate`?"),
        ),
        ({"search": {"stages.stf.steps": [1]}}, ("sweep.yaml:3", "no item `stf`", "sft")),
        ({"search": {"lora.dropout": [0.0, 1.5]}}, ("sweep.yaml:3", "lora.dropout")),
        ({"metric": "sfft.validation_loss"}, ("begins with no stage", "sft, tuned")),
        ({"recipe": None}, ("names no recipe", "posttrain sweep RECIPE")),
    ],
)
def test_mistakes_are_found_before_any_trial(cli, sweep, tmp_path, change, parts):
    complain(cli("sweep", sweep(**change)), 2, *parts)
    assert not (tmp_path / "runs").exists()


def test_a_metric_that_no_trial_has_is_found_by_the_first_and_can_be_mended(cli, sweep, tmp_path):
    result = cli("sweep", sweep(metric="tuned.gsm8k.acuracy", trials=1))
    complain(result, 2, "has no `tuned.gsm8k.acuracy`", "did you mean `tuned.gsm8k.accuracy`?")
    mended = cli("sweep", sweep(metric="tuned.gsm8k.accuracy", trials=1))
    assert mended.returncode == 0, mended.stderr
    assert "stage sft: unchanged, not run again" in mended.stderr
    other = cli("sweep", sweep(search={"lora.rank": [8, 16]}, trials=1))
    complain(other, 2, "another recipe or search space", "sweep.name=")
