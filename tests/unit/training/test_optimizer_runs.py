"""Whole small stages with every optimizer, schedule and number format."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from posttrain.models.load import load_model
from posttrain.runtime import Compute
from posttrain.training.schedules import plan_rates
from posttrain.training.sft import train_sft


def final_weights(job):
    return load_file(job.final / "model.safetensors")


def resume_from_step_2(job, tmp_path):
    """Run a copy of a finished stage whose later checkpoints are lost."""
    copy = dataclasses.replace(job, folder=tmp_path / "copy")
    shutil.copytree(job.folder, copy.folder, symlinks=True)
    shutil.rmtree(copy.final)
    for later in copy.checkpoints.glob("step-00000[3-9]"):
        shutil.rmtree(later)
    train_sft(copy)
    return copy


def test_eight_bit_states_learn_and_go_on_bit_for_bit(make_job, tmp_path, capsys):
    job = make_job(optimizer="adamw_8bit", weight_decay=0.01, accumulate=2)
    summary = train_sft(job)
    assert summary.loss_last < summary.loss_first
    assert summary.moved_share == 1
    capsys.readouterr()
    copy = resume_from_step_2(job, tmp_path)
    assert "going on from step 2 of 6" in capsys.readouterr().err
    resumed = final_weights(copy)
    for name, weight in final_weights(job).items():
        assert torch.equal(weight, resumed[name]), name


def test_bf16_weights_learn_go_on_bit_for_bit_and_stay_bf16(make_job, rows_file, tmp_path):
    recipe = {"compute": {"weights": "bf16"}}
    data = {"sources": [{"path": str(rows_file)}]}
    job = make_job(recipe=recipe, data=data, steps=4, batch_tokens=128)  # bf16 is slow on a CPU
    job = dataclasses.replace(job, compute=Compute("cpu", "bf16", 1, "a test"))
    summary = train_sft(job)
    assert summary.loss_last < summary.loss_first
    resumed = final_weights(resume_from_step_2(job, tmp_path))
    for name, weight in final_weights(job).items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, resumed[name]), name


def test_adafactor_learns_and_its_rates_are_those_of_the_plan(make_job):
    job = make_job(
        optimizer="adafactor",
        schedule="warmup_stable_decay",
        schedule_options={"num_decay_steps": 2, "decay_type": "linear"},
        warmup_steps=2,
        log_every_steps=1,
    )
    summary = train_sft(job)
    assert summary.loss_last < summary.loss_first
    lines = (job.folder / "metrics.jsonl").read_text().splitlines()
    rates = [row["learning_rate"] for row in map(json.loads, lines) if "learning_rate" in row]
    assert rates == pytest.approx(plan_rates(job.stage, 6))
    assert rates == pytest.approx([0, 5e-4, 1e-3, 1e-3, 1e-3, 5e-4])


def test_the_warm_up_is_what_the_weights_feel(make_job):
    # Tools have had warm-up settings that did nothing: the log was right and the steps were not.
    name = "model.layers.0.mlp.up_proj.weight"
    moved = {}
    for warmup in (0, 2):
        job = make_job(f"warmup-{warmup}", warmup_steps=warmup, steps=3, save_every_steps=1)
        train_sft(job)
        before = load_model(job.recipe.model, attention="sdpa", dtype="float32").state_dict()[name]
        first = load_file(job.checkpoints / "step-000001/model.safetensors")[name]
        moved[warmup] = float((first - before).abs().max())
    assert moved[2] == 0  # transformers' rise begins at 0
    assert moved[0] == pytest.approx(job.stage.learning_rate, rel=1e-3)


def test_training_arguments_reach_the_trainer(make_job, monkeypatch):
    for name in ("CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING", "ASCEND_LAUNCH_BLOCKING"):
        monkeypatch.setenv(name, "")  # set by it; put back afterwards
    job = make_job(steps=1, warmup=0, training_args={"full_determinism": True})
    try:
        train_sft(job)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
