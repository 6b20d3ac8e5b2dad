"""What becomes of a run whose checkpoints cannot be written, are due, or are cut short."""

import math
import os
import signal

import pytest

from posttrain.checkpoints import find_checkpoint, find_damage, list_checkpoints, load_manifest
from posttrain.config.train import DpoStage, GrpoStage, SftStage
from posttrain.errors import InterruptedRunError, PosttrainError
from posttrain.files import load_jsonl
from posttrain.training.objective import LanguageObjective
from posttrain.training.processes import StepBatches
from posttrain.training.saving import Saver, build_ranking
from posttrain.training.sft import train_sft
from tests.stages.faults import full_disk
from tests.unit.training.test_sft import assert_same_run, read_metrics

DATA = {"sources": [{"path": "rows.jsonl"}]}


def write_state(folder):
    (folder / "weights.bin").write_bytes(bytes(50_000))


def build_saver(folder, **settings):
    stage = SftStage.model_validate({"stage": "sft", "data": DATA, **settings})
    return Saver(folder, stage, {"run": "r"})


def test_a_refused_write_is_one_line_and_the_next_checkpoint_finds_room(tmp_path, capsys):
    saver = build_saver(tmp_path)
    saver.save(2, write_state)
    with full_disk(10_000):
        saver.save(4, write_state)
    assert (saver.saved_step, find_checkpoint(tmp_path, "r").step) == (2, 2)
    saver.save(6, write_state)
    assert find_checkpoint(tmp_path, "r").step == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-000002", "step-000006"]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: step 4: no checkpoint: cannot write ")
    assert said.endswith("that of step 2 is kept; the run goes on")


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_run_on_a_full_disk_trains_to_its_last_step_and_fails_at_the_model(
    make_job, tuning, capsys
):
    whole = make_job("whole", recipe={"tuning": tuning})
    train_sft(whole)
    job = make_job("full", recipe={"tuning": tuning})
    weights = max(whole.final.glob("*.safetensors")).stat().st_size
    with full_disk(weights // 2), pytest.raises(PosttrainError, match="cannot write"):
        train_sft(job)
    spoken = capsys.readouterr().err
    for step in (2, 4, 6):
        assert f"warning: step {step}: no checkpoint: cannot write" in spoken
    assert not job.final.exists()
    assert list_checkpoints(job.checkpoints) == []
    assert read_metrics(job.folder) == read_metrics(whole.folder)
    train_sft(job)
    assert_same_run(job.folder, whole.folder)


def test_checkpoints_come_by_the_clock_too_and_change_nothing(make_job):
    settings = {"log_every_steps": 1, "keep_last": 20, "save_every_steps": 4}
    plain = make_job("plain", **settings)
    often = make_job("often", **settings, save_every_minutes=1e-6)
    train_sft(plain)
    train_sft(often)
    assert [step for step, _ in list_checkpoints(plain.checkpoints)] == [4, 6]
    assert [step for step, _ in list_checkpoints(often.checkpoints)] == [1, 2, 3, 4, 5, 6]
    assert_same_run(often.folder, plain.folder)
    measured = [
        step for step, path in list_checkpoints(often.checkpoints)
        if "validation" in load_manifest(path)
    ]  # fmt: skip
    assert measured == [4, 6]


def test_the_best_by_another_metric_survives_a_stop(make_job):
    job = make_job(save_every_steps=1, keep_last=1, keep_best={"metric": "perplexity", "count": 2})
    with pytest.raises(InterruptedRunError):
        train_until(job, 4)
    train_sft(job)
    measured = {
        row["step"]: row["validation_perplexity"]
        for row in load_jsonl(job.folder / "metrics.jsonl")
        if "validation_perplexity" in row
    }
    assert sorted(measured) == [1, 2, 3, 4, 5, 6]
    best = sorted(measured, key=measured.__getitem__)[:2]
    assert {step for step, _ in list_checkpoints(job.checkpoints)} == {6, *best}
    assert (job.checkpoints / "best").resolve().name == f"step-{best[0]:06d}"


def train_until(job, wanted):
    """Train, and send SIGTERM when the batches of a step are fetched."""
    fetch = StepBatches.__getitem__

    def fetch_and_stop(self, step):
        if step + 1 == wanted and self.accumulate == job.stage.accumulate:
            os.kill(os.getpid(), signal.SIGTERM)
        return fetch(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepBatches, "__getitem__", fetch_and_stop)
        train_sft(job)


def test_a_stop_does_not_wait_for_validation_which_is_made_at_the_next_start(
    make_job, capsys, monkeypatch
):
    """The signal comes at the second batch of the first validation."""
    whole, job = make_job("whole", log_every_steps=1), make_job("cut", log_every_steps=1)
    train_sft(whole)
    measured, measure = [], LanguageObjective.measure

    def measure_and_stop(objective, model, batch, total):
        if not model.training:
            measured.append(len(batch["input_ids"]))
            os.kill(os.getpid(), signal.SIGUSR1)
        return measure(objective, model, batch, total)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageObjective, "measure", measure_and_stop)
        with pytest.raises(InterruptedRunError, match="stopped after step 2 of 6; all is saved"):
            train_sft(job)
    assert len(measured) == 1, "the second batch must not be measured"
    cut = job.checkpoints / "step-000002"
    assert "validation" not in load_manifest(cut)
    assert not any("validation_loss" in row for row in read_metrics(job.folder))
    capsys.readouterr()
    train_sft(job)
    spoken = capsys.readouterr().err
    assert spoken.index("step 2/6  validation") < spoken.index("step 3/6")
    assert_same_run(job.folder, whole.folder)
    assert find_damage(cut) is None
    assert load_manifest(cut)["validation"] == load_manifest(
        whole.checkpoints / "step-000002"
    )["validation"]  # fmt: skip


def test_the_metric_of_a_method_and_its_direction():
    def rank(kind, name, **settings):
        return build_ranking(kind.model_validate({"stage": name, "data": DATA, **settings}))

    assert (rank(SftStage, "sft").metric, rank(SftStage, "sft").higher_is_better) == ("loss", False)
    assert rank(GrpoStage, "grpo").metric == "reward"
    assert rank(GrpoStage, "grpo").higher_is_better
    kept = {"metric": "pair_accuracy", "count": 3}
    assert rank(DpoStage, "dpo", keep_best=kept).count == 3
    told = {"metric": "loss", "higher_is_better": True}
    assert rank(SftStage, "sft", keep_best=told).higher_is_better


def test_a_stage_promises_the_metrics_that_its_validation_has(make_job):
    job = make_job(steps=2)
    train_sft(job)
    found = load_manifest(job.checkpoints / "step-000002")["validation"]
    assert set(job.stage.validation_metrics) <= set(found)
    assert not any(math.isnan(value) for value in found.values())
