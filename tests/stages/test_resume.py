"""A run that is killed or stopped goes on exactly."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from posttrain.files import digest_file, load_jsonl
from tests.stages.conftest import command, environment

pytestmark = pytest.mark.slow


def start_until(step: int, recipe: Path, cache: Path, *settings: str) -> subprocess.Popen[str]:
    """Start training and wait until the checkpoint of a step has appeared."""
    process = subprocess.Popen(
        command("train", str(recipe), *settings),
        cwd=recipe.parent,
        env=environment(cache),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    wanted = recipe.parent / f"runs/small/sft/checkpoints/step-{step:06d}"
    deadline = time.monotonic() + 120
    while not wanted.is_dir() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert wanted.is_dir()
    return process


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_kill_9_in_mid_training_then_the_same_command_gives_the_same_weights(
    tuning, cli, recipe, cache_dir, tmp_path
):
    settings = (f"tuning={tuning}", "lora.dropout=0.1")
    process = start_until(12, recipe, cache_dir, *settings)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "runs/small/sft/final").exists()

    again = cli("train", str(recipe), *settings)
    assert again.returncode == 0, again.stderr
    assert "going on from step " in again.stderr

    unbroken = cli("train", str(recipe), *settings, "name=unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    name = "model.safetensors" if tuning == "full" else "adapter_model.safetensors"
    finals = [tmp_path / "runs" / run / "sft/final" / name for run in ("small", "unbroken")]
    assert digest_file(finals[0]) == digest_file(finals[1])
    steps = [row["step"] for row in load_jsonl(tmp_path / "runs/small/sft/metrics.jsonl")]
    assert steps == sorted(steps)


def test_sigterm_saves_and_says_how_to_go_on(cli, recipe, cache_dir, tmp_path):
    process = start_until(6, recipe, cache_dir)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "all is saved; go on with: posttrain" in errors.splitlines()[-1]
    again = cli("train", str(recipe))
    assert again.returncode == 0, again.stderr
    assert "going on from step " in again.stderr


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(cli, recipe, cache_dir, tmp_path):
    process = start_until(12, recipe, cache_dir)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    newest = max((tmp_path / "runs/small/sft/checkpoints").glob("step-*"))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    again = cli("train", str(recipe))
    assert again.returncode == 0, again.stderr
    assert (
        f"checkpoint passed over: {newest.name}: model.safetensors has 1000 bytes" in again.stderr
    )


def test_two_processes_cannot_work_on_one_run(cli, recipe, cache_dir):
    process = start_until(6, recipe, cache_dir, "stages.sft.steps=2000")
    try:
        second = cli("train", str(recipe), "stages.sft.steps=2000")
    finally:
        process.kill()
        process.communicate()
    assert second.returncode == 2
    assert "another process is working on this run" in second.stderr


def test_a_run_goes_on_from_its_copy_on_another_machine(cli, recipe, cache_dir, tmp_path):
    away = tmp_path / "away"
    process = start_until(6, recipe, cache_dir, f"upload_to={away}")
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    shutil.rmtree(tmp_path / "runs")
    shutil.copytree(away / "small", tmp_path / "runs/small")
    checked = cli("verify", "runs/small")
    assert checked.returncode == 0, checked.stderr
    again = cli("train", str(recipe), f"upload_to={away}")
    assert again.returncode == 0, again.stderr
    assert "going on from step " in again.stderr
    assert "older result is kept" not in again.stderr
    assert cli("train", str(recipe), "name=unbroken").returncode == 0
    finals = [tmp_path / f"runs/{run}/sft/final/model.safetensors" for run in ("small", "unbroken")]
    assert digest_file(finals[0]) == digest_file(finals[1])
    assert cli("verify", "away/small").returncode == 0
    assert "not at" not in cli("verify", "runs/small").stdout


def test_a_run_stops_itself_after_its_time(cli, recipe):
    stopped = cli("train", str(recipe), "stages.sft.steps=2000", "stop_after_minutes=0.2")
    assert stopped.returncode == 130, stopped.stderr
    assert "stop_after_minutes: " in stopped.stderr
    assert "; go on with: posttrain" in stopped.stderr.splitlines()[-1]


def test_a_checkpoint_of_another_run_is_not_taken(cli, recipe, cache_dir, tmp_path):
    assert cli("train", str(recipe), "name=other", "seed=5").returncode == 0
    process = start_until(6, recipe, cache_dir)
    process.kill()
    process.communicate()
    own = tmp_path / "runs/small/sft/checkpoints"
    shutil.copytree(tmp_path / "runs/other/sft/checkpoints/step-000024", own / "step-000024")
    again = cli("train", str(recipe))
    assert again.returncode == 0, again.stderr
    assert (
        "checkpoint passed over: step-000024: it was written with other data, another model"
        in again.stderr
    )
    assert "going on from step " in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_outside_training_ends_with_one_line(number, recipe, cache_dir, tmp_path):
    process = subprocess.Popen(
        command("run", str(recipe), "stages.base.tasks.0.max_new_tokens=4000"),
        cwd=tmp_path,
        env=environment(cache_dir),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    for line in iter(process.stderr.readline, ""):
        if "stage base: evaluate" in line:
            break
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert "finished stages and checkpoints are kept; go on with: posttrain" in rest
    assert not (tmp_path / "runs/small/base/stage.json").exists()
