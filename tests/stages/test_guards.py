"""What stops a run, takes it back or ends it early, through the command line."""

import json
import signal
from functools import partial
from pathlib import Path

import pytest

from posttrain.files import digest_file, load_json, load_jsonl
from posttrain.samples.math import generate_math
from tests.stages.conftest import environment
from tests.stages.faults import kill_at, poison_token, spoil_batch
from tests.stages.started import Forked

pytestmark = pytest.mark.slow

RECIPE = """\
name: small
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - stage: sft
    data: {sources: [{path: rows.jsonl}], split: {validation: 0.2}}
    epochs: 1.0
    batch_tokens: 256
    learning_rate: 1e-3
    log_every_steps: 1
    save_every_steps: 3
    keep_last: 9
"""
MARK = "§"
ROLLBACK = "stages.sft.on_nonfinite=rollback"


@pytest.fixture
def train(tmp_path, cache_dir):
    """Run ``posttrain train`` on a hundred problems, one of which holds a token of its own."""
    rows = list(generate_math(100, seed=5))
    rows[17]["question"] += MARK
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "small.yaml").write_text(RECIPE)
    places = iter(range(100))

    def run(*settings, before=None):
        place = tmp_path / f"streams-{next(places)}"
        place.mkdir()
        forked = Forked(
            ["train", "small.yaml", *settings],
            place,
            folder=tmp_path,
            environment=environment(cache_dir),
            before=before,
        )
        return forked.wait(120)

    return run


@pytest.fixture
def poison(tiny_tokenizer):
    """Makes the batch with the marked row come out as NaN."""
    token = tiny_tokenizer.encode(MARK, add_special_tokens=False)[-1]
    return partial(poison_token, token)


def metrics(folder: Path) -> list[dict[str, float]]:
    timed = ("seconds", "per_second", "mfu", "memory")
    lines = load_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not any(t in k for t in timed)} for line in lines]


def final(folder: Path) -> str:
    return digest_file(folder / "final/model.safetensors")


@pytest.mark.parametrize("gradient", [False, True])
def test_what_is_no_number_stops_before_the_update_and_names_the_rows(
    gradient, train, poison, tmp_path
):
    stopped = train(before=partial(poison, gradient=gradient))
    assert stopped.returncode == 6
    what = "the gradient of " if gradient else "the loss of a batch is nan"
    assert what in stopped.stderr
    assert "rows.jsonl:18" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "runs/small/sft/final").exists()


def test_a_stopped_run_goes_on_with_a_rollback(train, poison, tmp_path):
    stopped = train(before=poison)
    assert stopped.returncode == 6, stopped.stderr
    again = train(ROLLBACK, before=poison)
    assert again.returncode == 0, again.stderr
    folder = tmp_path / "runs/small/sft"
    (entry,) = load_json(folder / "rollbacks.json")
    if entry["back_to"]:
        assert f"going on from step {entry['back_to']} of 11" in again.stderr
    assert any("rows.jsonl:18" in row for row in entry["rows"])


def test_a_rollback_passes_over_the_step_and_lowers_the_rate(train, poison, tmp_path):
    done = train(ROLLBACK, before=poison)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/small/sft"
    (entry,) = load_json(folder / "rollbacks.json")
    step = entry["step"]
    assert f"step {step} is passed over, the learning rate is 0.5 times" in done.stderr
    assert load_json(folder / "lineage.json")["rollbacks"] == [entry]
    assert load_json(folder / "stage.json")["summary"]["skipped_steps"] == 1
    usual = train("name=usual")
    assert usual.returncode == 0, usual.stderr
    rates = {row["step"]: row["learning_rate"] for row in metrics(tmp_path / "runs/usual/sft")
             if "learning_rate" in row}  # fmt: skip
    found = {row["step"]: row["learning_rate"] for row in metrics(folder) if "learning_rate" in row}
    assert found.keys() == rates.keys() - {step}
    for number, rate in found.items():
        factor = 0.5 if number > entry["back_to"] else 1.0
        assert rate == pytest.approx(factor * rates[number]), number


def test_a_run_killed_after_a_rollback_ends_as_an_unbroken_one(train, poison, tmp_path):
    unbroken = train(ROLLBACK, "name=unbroken", before=poison)
    assert unbroken.returncode == 0, unbroken.stderr
    killed = train(ROLLBACK, before=partial(_both, poison, "checkpoints/step-000011"))
    assert killed.returncode == -signal.SIGKILL
    again = train(ROLLBACK, before=poison)
    assert again.returncode == 0, again.stderr
    assert "passed over since an earlier attempt: step " in again.stderr
    left, right = (tmp_path / f"runs/{name}/sft" for name in ("small", "unbroken"))
    assert final(left) == final(right)
    assert metrics(left) == metrics(right)


def _both(poison, ending):
    poison()
    kill_at("os.rename", ending)


def test_the_limit_of_rollbacks_ends_the_run(train, poison, tmp_path):
    done = train(ROLLBACK, "stages.sft.rollback.most=1", "stages.sft.epochs=3",
                 before=poison)  # fmt: skip
    assert done.returncode == 6
    assert "the stage has gone back 1 times already, for steps " in done.stderr
    assert len(load_json(tmp_path / "runs/small/sft/rollbacks.json")) == 1


@pytest.mark.parametrize("action", ["warn", "rollback", "stop"])
def test_a_loss_spike(action, train, tmp_path):
    done = train(
        "stages.sft.steps=30", f"stages.sft.loss_spike.action={action}",
        "stages.sft.schedule=constant", "stages.sft.learning_rate=1e-5",
        before=partial(spoil_batch, 100.0, 24),
    )  # fmt: skip
    assert "step 24: the loss is " in done.stderr
    assert "deviations above" in done.stderr
    assert done.returncode == (6 if action == "stop" else 0)
    folder = tmp_path / "runs/small/sft"
    assert (folder / "rollbacks.json").is_file() == (action == "rollback")
    if action == "warn":
        assert "warning: step 24: " in done.stderr
        assert "rows.jsonl:" in done.stderr


STOP_EARLY = (
    "stages.sft.early_stopping.patience=2",
    "stages.sft.early_stopping.min_delta=10",
    "stages.sft.save_every_steps=2",
)


def test_stopping_early_ends_the_stage_with_its_best_model(train, tmp_path):
    done = train(*STOP_EARLY)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/small/sft"
    summary = load_json(folder / "stage.json")["summary"]
    assert summary["steps"] == 6
    reason = "stopped early after step 6: validation loss has not got better by more than 10 in 2"
    assert summary["stopped_early"].startswith(reason)
    assert reason in done.stderr
    measured = {r["step"]: r["validation_loss"] for r in metrics(folder) if "validation_loss" in r}
    assert sorted(measured) == [2, 4, 6]
    best = min(measured, key=measured.get)
    assert summary["best_step"] == best
    assert summary["validation_loss"] == measured[best]
    assert final(folder) == digest_file(folder / f"checkpoints/step-{best:06d}/model.safetensors")


def test_early_stopping_is_the_same_for_an_interrupted_run(train, tmp_path):
    settings = (*STOP_EARLY, "stages.sft.warmup_steps=8")  # it stops while the rate still rises
    unbroken = train(*settings, "name=unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    for ending in ("checkpoints/step-000004", "checkpoints/step-000006", "sft/final"):
        killed = train(*settings, before=partial(kill_at, "os.rename", ending))
        assert killed.returncode == -signal.SIGKILL
    again = train(*settings)
    assert again.returncode == 0, again.stderr
    left, right = (tmp_path / f"runs/{name}/sft" for name in ("small", "unbroken"))
    assert final(left) == final(right)
    assert metrics(left) == metrics(right)
    one, other = (load_json(folder / "stage.json")["summary"] for folder in (left, right))
    for name in ("steps", "stopped_early", "best_step", "loss_last", "tokens"):
        assert one[name] == other[name], name


def test_the_last_model_is_left_where_that_is_asked_for(train, tmp_path):
    done = train(*STOP_EARLY, "stages.sft.final_model=last", "stages.sft.learning_rate=0.05")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/small/sft"
    last = max((folder / "checkpoints").glob("step-*"))
    assert final(folder) == digest_file(last / "model.safetensors")


def test_early_stopping_without_validation_is_refused(train):
    refused = train(*STOP_EARLY, "stages.sft.data.split.validation=0")
    assert refused.returncode == 2
    assert "`early_stopping` looks at validation" in refused.stderr


def test_a_metric_that_is_not_measured_is_refused(train):
    refused = train("stages.sft.early_stopping.metric=reward")
    assert refused.returncode == 2
    assert "`reward` is not measured; there is: loss" in refused.stderr


def test_a_range_test_suggests_a_rate_and_leaves_nothing(cli, train, tmp_path):
    found = cli("plan", "small.yaml", "--find-lr")
    assert found.returncode == 0, found.stderr
    assert "steps with rising learning rate, from tiny" in found.stdout
    (line,) = [line for line in found.stdout.splitlines() if "suggestion: " in line]
    rate = float(line.split("learning_rate=")[1].split(":")[0])
    assert 1e-4 < rate < 2e-2
    assert not (tmp_path / "runs").exists()
