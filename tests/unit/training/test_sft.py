"""The whole stage on the built-in model: interruption, resume, damage, what it leaves behind."""

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from posttrain.checkpoints import find_damage
from posttrain.config.load import build_recipe
from posttrain.errors import InterruptedRunError
from posttrain.models.load import load_model
from posttrain.training.sft import train_sft
from tests.metrics import drop_times

TUNINGS = {
    "full": {},
    # Dropout, so that the random state matters too.
    "lora": {"tuning": "lora", "lora": {"rank": 4, "dropout": 0.2}},
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return drop_times(map(json.loads, lines))


def assert_same_run(found: Path, expected: Path) -> None:
    left, right = weights(found / "final"), weights(expected / "final")
    assert left.keys() == right.keys()
    assert [name for name in right if not torch.equal(left[name], right[name])] == []
    assert read_metrics(found) == read_metrics(expected)


@pytest.fixture(params=["full", "lora"])
def unbroken(request, make_job):
    """A job that ran to its end, and its summary."""
    job = make_job("unbroken", recipe=TUNINGS[request.param], log_every_steps=1)
    return job, train_sft(job)


def continue_copy(job, tmp_path, *, lost=(), damaged=()):
    """Take up a copy of a finished run from which some checkpoints and the end are gone."""
    copy = replace(job, folder=tmp_path / "copy")
    shutil.copytree(job.folder, copy.folder, symlinks=True)
    shutil.rmtree(copy.final)
    for step in lost:
        shutil.rmtree(copy.checkpoints / f"step-{step:06d}")
    for step in damaged:
        (file,) = (copy.checkpoints / f"step-{step:06d}").glob("*.safetensors")
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
    return copy, train_sft(copy)


def test_resume_continues_bit_for_bit(unbroken, tmp_path, capsys):
    job, summary = unbroken
    copy, resumed = continue_copy(job, tmp_path, lost=[4, 6])
    assert "going on from step 2 of 6" in capsys.readouterr().err
    assert_same_run(copy.folder, job.folder)
    assert resumed.loss_first == summary.loss_first
    assert resumed.loss_last == summary.loss_last
    assert resumed.steps == summary.steps


def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(unbroken, tmp_path, capsys):
    job, _ = unbroken
    copy, _ = continue_copy(job, tmp_path, lost=[6], damaged=[4])
    spoken = capsys.readouterr().err
    assert "checkpoint passed over: step-000004: " in spoken
    assert "going on from step 2 of 6" in spoken
    assert_same_run(copy.folder, job.folder)
    assert find_damage(copy.checkpoints / "step-000004") is None


def test_all_checkpoints_damaged_is_said_and_the_run_starts_over(unbroken, tmp_path, capsys):
    job, _ = unbroken
    copy, _ = continue_copy(job, tmp_path, damaged=[2, 4, 6])
    spoken = capsys.readouterr().err
    assert spoken.count("checkpoint passed over: ") == 3
    assert "no checkpoint is intact: starting at the beginning" in spoken
    assert_same_run(copy.folder, job.folder)


def test_resume_after_the_final_step_only_writes_the_model(unbroken, tmp_path):
    job, summary = unbroken
    copy, resumed = continue_copy(job, tmp_path)
    assert_same_run(copy.folder, job.folder)
    assert (resumed.loss_first, resumed.loss_last) == (summary.loss_first, summary.loss_last)
    assert resumed.moved_share == summary.moved_share


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_signal_saves_says_how_to_go_on_and_loses_nothing(make_job, tuning, capsys):
    settings = {
        "recipe": TUNINGS[tuning],
        "steps": 12,
        "log_every_steps": 1,
        "save_every_steps": 50,
    }
    job, whole = make_job("broken", **settings), make_job("whole", **settings)
    train_sft(whole)

    def send_when_running() -> None:
        metrics = job.folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send_when_running, daemon=True)
    sender.start()
    with pytest.raises(InterruptedRunError, match="go on with: posttrain run demo") as caught:
        train_sft(job)
    sender.join()
    (saved,) = job.checkpoints.glob("step-*")
    step = int(saved.name[5:])
    assert 3 <= step < 12
    assert f"stopped after step {step} of 12" in str(caught.value)
    assert find_damage(saved) is None
    assert not job.final.exists()
    train_sft(job)
    assert f"going on from step {step} of 12" in capsys.readouterr().err
    # The interrupted run measured nothing more: only the end is validated here.
    assert_same_run(job.folder, whole.folder)


def test_old_checkpoints_go_and_the_best_and_the_last_are_linked(make_job):
    job = make_job(save_every_steps=1, keep_last=2)
    train_sft(job)
    best = job.checkpoints / "best"
    assert (job.checkpoints / "last").resolve().name == "step-000006"
    losses = {
        row["step"]: row["validation_loss"]
        for row in read_metrics(job.folder)
        if "validation_loss" in row
    }
    assert sorted(losses) == [1, 2, 3, 4, 5, 6]
    assert best.resolve().name == f"step-{min(losses, key=losses.__getitem__):06d}"
    kept = {path.name for path in job.checkpoints.glob("step-*")}
    assert kept == {"step-000005", "step-000006", best.resolve().name}


def test_without_validation_rows_nothing_is_validated(make_job, rows_file):
    job = make_job(data={"sources": [{"path": str(rows_file)}]}, steps=2)
    train_sft(job)
    assert not any("validation_loss" in row for row in read_metrics(job.folder))
    assert not (job.checkpoints / "best").exists()


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_finished_model_loads_and_is_the_last_checkpoint(make_job, tuning):
    job = make_job(recipe=TUNINGS[tuning], steps=2)
    summary = train_sft(job)
    assert find_damage(job.final) is None
    last = weights(job.checkpoints / "last")
    for name, value in weights(job.final).items():
        assert torch.equal(value, last[name])
    config = job.recipe.model.model_copy(update={"path": str(job.final)})
    loaded = load_model(config, attention="sdpa", dtype="float32")
    assert sum(p.numel() for p in loaded.parameters()) == summary.total_parameters
    source = load_model(job.recipe.model, attention="sdpa", dtype="float32")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert not torch.equal(loaded(ids).logits, source(ids).logits)


def test_a_stage_goes_on_from_an_adapter_in_lora_and_merges_it_in_full(make_job, capsys):
    first = make_job("first", recipe=TUNINGS["lora"], steps=2)
    train_sft(first)
    for tuning in ("lora", "full"):
        values = {**first.recipe.model_dump(mode="json"), "tuning": tuning}
        values["model"] = {"path": str(first.final)}
        recipe = build_recipe(values, [], "test")
        job = replace(first, recipe=recipe, folder=first.folder.with_name(tuning))
        summary = train_sft(job)
        # The adapter of the first stage is there: the loss goes on from where it was.
        assert summary.loss_first == pytest.approx(read_metrics(first.folder)[-2]["loss"], abs=0.3)
        assert (job.final / "adapter_config.json").exists() == (tuning == "lora")
    assert "going on with the adapter" in capsys.readouterr().err
