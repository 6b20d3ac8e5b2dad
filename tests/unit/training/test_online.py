"""GRPO and PPO, each whole, on the tiny model."""

import json
import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.config.load import build_recipe
from posttrain.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InterruptedRunError,
    VerificationError,
)
from posttrain.models.load import find_model
from posttrain.runs.plan import plan_recipe
from posttrain.training import rounds
from posttrain.training.online import train_online
from posttrain.training.reward import train_reward
from posttrain.training.rounds import Rounds
from tests.metrics import drop_times

LORA = {"tuning": "lora", "lora": {"rank": 4}}


@pytest.fixture(scope="session")
def sums_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sums") / "sums.jsonl"
    rows = [
        {"prompt": f"What is {a} plus {b}?", "reference": str(a + b)}
        for a in range(4)
        for b in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make(make_job, sums_file, judge):
    """Make a job of three small rounds, judged by the random reward model."""

    def build(kind="grpo", name="run", *, recipe=None, data=None, **stage):
        settings = {
            "stage": kind,
            "data": {"sources": [{"path": str(sums_file)}], **(data or {})},
            "rewards": {"answer": 0, "model": str(judge)},
            "steps": None,
            "rollouts": 3,
            "prompts_per_rollout": 4,
            "completions": 3,
            "max_new_tokens": 8,
            "log_every_steps": 1,
            "learning_rate": 1e-3,
            **stage,
        }
        return make_job(name, recipe=recipe, **settings)

    return build


def metrics(folder, drop=()):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in drop} for row in drop_times(rows)]


def weights(folder):
    return {path.name: load_file(path) for path in folder.glob("*.safetensors")}


def assert_equal_weights(left, right):
    assert left.keys() == right.keys()
    for file in left:
        assert left[file].keys() == right[file].keys()
        assert [n for n in left[file] if not torch.equal(left[file][n], right[file][n])] == []


def test_a_round_that_is_done_again_is_told_once(make, tmp_path):
    begun = Rounds(make(), None, None, None, None)
    begun.save(tmp_path)
    begun._untold.append({"reward": 1.0})
    begun.load(tmp_path)  # after a rollback
    begun._newest = {"reward": 3.0}
    begun._untold.append(begun._newest)
    assert begun.tell() == {"reward": 3.0}


@pytest.mark.parametrize(
    ("kind", "tuning"), [("grpo", "full"), ("grpo", "lora"), ("ppo", "full"), ("ppo", "lora")]
)
def test_resume_continues_bit_for_bit(make, kind, tuning, tmp_path, capsys):
    job = make(
        kind,
        "unbroken",
        recipe=LORA if tuning == "lora" else {},
        data={"split": {"validation": 0.2}},
        updates_per_rollout=2,
        passes_per_rollout=2,
        kl_weight=0.1,
    )
    summary = train_online(job)
    assert summary.steps == 12
    checkpoints = sorted(path.name for path in job.checkpoints.glob("step-*"))
    assert checkpoints == ["step-000004", "step-000008", "step-000012"]  # whole rounds
    copy = replace(job, folder=tmp_path / "copy")
    shutil.copytree(job.folder, copy.folder, symlinks=True)
    shutil.rmtree(copy.final)
    for name in checkpoints[1:]:
        shutil.rmtree(copy.checkpoints / name)
    resumed = train_online(copy)
    assert "going on from step 4 of 12" in capsys.readouterr().err
    assert_equal_weights(weights(copy.final), weights(job.final))
    for name in checkpoints[1:]:
        left, right = copy.checkpoints / name, job.checkpoints / name
        assert_equal_weights(weights(left), weights(right))
        assert (left / "rounds.json").read_bytes() == (right / "rounds.json").read_bytes()
        states = [torch.load(f / "optimizer.pt", weights_only=True)["state"] for f in (left, right)]
        for number, state in states[1].items():
            assert all(torch.equal(states[0][number][k], v) for k, v in state.items())
    assert metrics(copy.folder) == metrics(job.folder)
    assert resumed.validation == summary.validation
    assert (resumed.tokens, resumed.trained_tokens) == (summary.tokens, summary.trained_tokens)
    assert summary.trained_tokens < summary.tokens
    counted = f"{summary.trainable_parameters:,} of {summary.total_parameters:,} trainable"
    assert counted in plan_recipe(job.recipe)


def test_ppo_leaves_its_value_head_behind_and_the_model_loads_elsewhere(make):
    job = make("ppo", rollouts=2)
    train_online(job)
    assert sorted(p.name for p in job.final.glob("*.safetensors")) == ["model.safetensors"]
    model, loading = AutoModelForCausalLM.from_pretrained(job.final, output_loading_info=True)
    assert not loading["unexpected_keys"]
    assert not loading["missing_keys"]
    base = AutoModelForCausalLM.from_pretrained(find_model("tiny"))
    assert load_file(job.final / "model.safetensors").keys() == (
        load_file(f"{find_model('tiny')}/model.safetensors").keys()
    )
    assert not torch.equal(model.model.embed_tokens.weight, base.model.embed_tokens.weight)
    head = load_file(job.checkpoints / "step-000002" / "value_head.safetensors")
    assert {name: tuple(v.shape) for name, v in head.items()} == {
        "weight": (1, base.config.hidden_size),
        "bias": (1,),
    }


def test_ppo_with_adapters_trains_the_value_head_with_them(make):
    job = make("ppo", recipe=LORA, rollouts=2)
    summary = train_online(job)
    head = load_file(job.checkpoints / "step-000002" / "value_head.safetensors")
    assert head["weight"].abs().max() > 0
    assert head["bias"].abs().max() > 0
    adapter = load_file(job.final / "adapter_model.safetensors")
    assert not [name for name in adapter if "value" in name]
    plain = make("grpo", "plain", recipe=LORA, rollouts=1)
    fewer = train_online(plain).trainable_parameters
    assert summary.trainable_parameters == fewer + head["weight"].numel() + 1


def test_the_value_head_learns_what_answers_are_worth(make):
    job = make("ppo", rollouts=10, prompts_per_rollout=8, learning_rate=3e-3, value_clip=5.0)
    train_online(job)
    rows = metrics(job.folder)
    assert rows[0]["explained_variance"] == pytest.approx(0, abs=1e-6)  # all its estimates are 0
    assert rows[-1]["value_loss"] < 0.5 * rows[0]["value_loss"]


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_reward_rises(make, kind):
    """The judge's taste is arbitrary but steady, so it can be met."""
    job = make(
        kind,
        rollouts=10,
        prompts_per_rollout=12,
        completions=8,
        max_new_tokens=2,
        learning_rate=1e-2,
        schedule="constant",
    )
    train_online(job)
    rows = [row["reward"] for row in metrics(job.folder)]
    assert rows[-1] > rows[0] + 0.3
    assert all(row["reward"] == row["reward_model"] for row in metrics(job.folder))


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_distance_is_measured_from_the_model_that_the_stage_starts_from(make, kind, tuning):
    job = make(
        kind,
        recipe=LORA if tuning == "lora" else {},
        kl_weight=0.05,
        passes_per_rollout=2,
        learning_rate=3e-3,
    )
    train_online(job)
    rows = metrics(job.folder)
    assert rows[0]["reference_kl"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["policy_kl"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["clipped_share"] == 0
    assert rows[-1]["reference_kl"] > 1e-5
    # In a second pass the model has moved away from the one that wrote the answers.
    assert rows[1]["policy_kl"] != 0


def test_a_round_used_once_needs_no_second_scoring(make, monkeypatch):
    job = make("grpo")
    asked = []
    score = Rounds._score_with

    def note(self, model, logprobs, values):
        asked.append(logprobs)
        score(self, model, logprobs, values)

    monkeypatch.setattr(Rounds, "_score_with", note)
    train_online(job)
    assert asked == []
    assert [row["policy_kl"] for row in metrics(job.folder)] == [0.0] * 3


def make_rounds(stage, prompts, seed=0):
    job = SimpleNamespace(stage=stage, recipe=SimpleNamespace(seed=seed))
    return Rounds(job, None, prompts, None, None)


class Prompts(int):
    """So many prompts, each of which is seen once an epoch."""

    mixture = None

    def epoch(self, number):
        return np.arange(self)

    def __len__(self):
        return int(self)


@pytest.mark.parametrize(("prompts", "each"), [(12, 4), (10, 4), (5, 3), (3, 7)])
def test_prompts_of_the_rounds_are_shuffled_pass_by_pass(make, prompts, each):
    stage = make(prompts_per_rollout=each).stage
    numbers = [make_rounds(stage, Prompts(prompts)).choose_prompts(n) for n in range(20)]
    joined = [index for chosen in numbers for index in chosen]
    assert {len(chosen) for chosen in numbers} == {each}
    turns = [joined[i : i + prompts] for i in range(0, len(joined) - prompts, prompts)]
    assert all(sorted(turn) == list(range(prompts)) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1
    other = make_rounds(stage, Prompts(prompts), seed=1)
    assert [i for n in range(20) for i in other.choose_prompts(n)] != joined


def test_a_new_round_begins_with_its_first_step_only(make, monkeypatch):
    job = make(rollouts=2, updates_per_rollout=2, passes_per_rollout=3)
    written = []
    write = rounds.write_samples

    def count(*args, **kwargs):
        written.append(kwargs["seed"])
        return write(*args, **kwargs)

    monkeypatch.setattr(rounds, "write_samples", count)
    summary = train_online(job)
    assert summary.steps == 12
    assert len(set(written)) == len(written) == 2
    rows = metrics(job.folder)
    told = [row["reward"] for row in rows]
    assert told == [told[0]] * 6 + [told[6]] * 6
    # Every pass goes over all answers of the round once.
    trained = np.diff([0, *(row["trained_tokens"] for row in rows)]).reshape(6, 2).sum(axis=1)
    assert set(trained[:3]) == {trained[0]}
    assert set(trained[3:]) == {trained[3]}
    assert trained[0] == pytest.approx(rows[0]["completion_tokens"] * 12)


def test_sparse_lines_tell_the_mean_over_their_rounds(make):
    every = make(name="every", rollouts=4, save_every_steps=4)
    sparse = make(name="sparse", rollouts=4, save_every_steps=4, log_every_steps=4)
    for job in (every, sparse):
        train_online(job)
    rows = metrics(every.folder)
    last = metrics(sparse.folder)[-1]
    assert last["step"] == 4
    rest = [row["reward"] for row in rows[1:]]  # the first step has a line of its own
    assert last["reward"] == pytest.approx(sum(rest) / 3)


def test_a_stop_waits_for_the_end_of_the_round(make, monkeypatch):
    job = make(rollouts=3, updates_per_rollout=2, passes_per_rollout=2)
    batches_for = Rounds.batches_for

    def interrupt(self, step, model):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return batches_for(self, step, model)

    monkeypatch.setattr(Rounds, "batches_for", interrupt)
    with pytest.raises(InterruptedRunError, match="stopped after step 8 of 12"):
        train_online(job)
    monkeypatch.undo()
    unbroken = make(name="unbroken", rollouts=3, updates_per_rollout=2, passes_per_rollout=2)
    train_online(job)
    train_online(unbroken)
    assert_equal_weights(weights(job.final), weights(unbroken.final))
    assert metrics(job.folder) == metrics(unbroken.folder)


NO_SIGNAL = {"rewards": {"answer": 1.0}, "max_new_tokens": 1, "temperature": 0.01}


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_stage_that_is_never_rewarded_ends_with_one_clear_line(make, kind, capsys):
    job = make(kind, **NO_SIGNAL)
    with pytest.raises(VerificationError, match="in none of 3 rounds") as caught:
        train_online(job)
    assert "fine-tune it first" in str(caught.value.hint)
    assert "round 1: all answers are worth the same" in capsys.readouterr().err
    assert not job.final.exists()


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_first_round_without_reward_does_not_end_the_run(make, kind, monkeypatch, capsys):
    job = make(kind)
    grade = rounds.Rewards.grade
    seen = []

    def first_all_equal(self, prompts, completions, examples):
        worth, means = grade(self, prompts, completions, examples)
        seen.append(1)
        return ([0.0] * len(worth) if len(seen) == 1 else worth), means

    monkeypatch.setattr(rounds.Rewards, "grade", first_all_equal)
    summary = train_online(job)
    assert summary.steps == 3
    rows = metrics(job.folder)
    assert rows[0]["grad_norm"] == 0
    assert rows[1]["grad_norm"] > 0
    if kind == "grpo":
        assert [row["equal_groups"] for row in rows] == [1.0, 0.0, 0.0]
    assert capsys.readouterr().err.count("all answers are worth the same") == 1


def test_answers_of_one_token_are_unfinished_and_keep_their_worth(make):
    job = make(max_new_tokens=1, rollouts=2)
    train_online(job)
    for row in metrics(job.folder):
        assert row["completion_tokens"] == 1
        assert row["unfinished"] == 1.0
        assert row["reward"] != 0


def test_validation_answers_are_graded(make):
    job = make(
        rewards={"answer": 1.0, "model": str(make().stage.rewards.model)},
        data={"split": {"validation": 0.3}},
        rollouts=2,
        save_every_steps=1,
    )
    summary = train_online(job)
    rows = [row for row in metrics(job.folder) if "validation_reward" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert {row["validation_accuracy"] for row in rows} <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert summary.validation["validation_reward"] == rows[-1]["validation_reward"] != 0


def test_without_references_there_is_no_accuracy(make, tmp_path, judge):
    path = tmp_path / "bare.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {n}"}) + "\n" for n in range(10)))
    data = {"sources": [{"path": str(path)}], "split": {"validation": 0.3}}
    job = make(data=data, rollouts=1)
    summary = train_online(job)
    assert summary.validation.keys() == {"validation_reward"}
    (row,) = [row for row in metrics(job.folder) if "reward" in row]
    assert "reward_answer" not in row
    with pytest.raises(DataError, match=r"bare\.jsonl:\d+: no reference answer") as caught:
        train_online(make(name="graded", data=data, rewards={}))
    assert "rewards.model" in str(caught.value.hint)


def test_prompts_that_leave_no_room_are_refused_before_anything_is_loaded(make):
    job = make(batch_tokens=20)
    with pytest.raises(ConfigError, match="batch_tokens is 20"):
        train_online(job)
    with pytest.raises(ConfigError, match="batch_tokens is 20"):
        plan_recipe(job.recipe)


def test_more_updates_than_prompts_are_refused(make):
    with pytest.raises(ConfigError, match=r"`updates_per_rollout` \(5\) is above"):
        make(updates_per_rollout=5)


def test_a_language_model_is_no_judge(make):
    with pytest.raises(CheckpointError, match="is no reward model"):
        train_online(make(rewards={"answer": 0, "model": "tiny"}))


def test_a_judge_with_other_tokens_is_refused(make, judge, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(judge, other)
    tokenizer = AutoTokenizer.from_pretrained(judge)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ConfigError, match="its tokenizer is not that of the model in training"):
        train_online(make(rewards={"answer": 0, "model": str(other)}))


def test_a_reward_model_writes_no_answers(make, judge):
    with pytest.raises(CheckpointError, match="scores texts and writes none"):
        train_online(make(recipe={"model": {"path": str(judge)}}))


def test_an_adapter_of_a_reward_model_writes_no_answers(make, sums_file, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {n}", "chosen": "yes", "rejected": "no"} for n in range(8)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = make(recipe=LORA).recipe.model_dump(mode="json")
    values["stages"] = [{"stage": "reward", "data": {"sources": [{"path": str(pairs)}]}}]
    recipe = build_recipe(values, [], "test")
    job = replace(make(name="judge"), recipe=recipe, stage=recipe.stages[0])
    train_reward(job)
    model = {"path": str(job.final), "tokenizer": "tiny"}
    with pytest.raises(CheckpointError, match="scores texts and writes none"):
        train_online(make(recipe={**LORA, "model": model}))


def test_only_a_reward_stage_goes_on_with_a_reward_stage(make):
    values = make().recipe.model_dump(mode="json")
    judge = {"stage": "reward", "name": "judge", "data": {"sources": [{"path": "pairs.jsonl"}]}}
    values["stages"] = [judge, {**values["stages"][0], "start_from": "judge"}]
    with pytest.raises(ConfigError, match="`start_from: judge` names no earlier stage"):
        build_recipe(values, [], "test")
    values["stages"][1] = {**judge, "name": "again", "start_from": "judge"}
    build_recipe(values, [], "test")


def test_several_devices_are_refused(make):
    job = make(recipe={"parallel": {"strategy": "zero2"}})
    with pytest.raises(ConfigError, match="not written with DeepSpeed here"):
        train_online(job)


def test_a_reward_stage_can_be_named_instead_of_a_folder(make):
    values = make().recipe.model_dump(mode="json")
    values["stages"][0]["rewards"] = {"model": "tiny", "model_from": "judge"}
    with pytest.raises(ConfigError, match="either `model` or `model_from`"):
        build_recipe(values, [], "test")


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_stop_gives_a_rollout_up_and_the_end_is_the_same(make, kind, monkeypatch, capsys):
    """The signal comes while the answers of the third round are written."""
    settings = {"updates_per_rollout": 2, "save_every_steps": 50}
    whole, cut = make(kind, "whole", **settings), make(kind, "cut", **settings)
    train_online(whole)
    write, written = rounds.write_samples, []

    def write_and_stop(*args, **options):
        written.append(options["seed"])
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "write_samples", write_and_stop)
        with pytest.raises(InterruptedRunError, match="stopped after step 4 of 6; all is saved"):
            train_online(cut)
    assert [path.name for path in cut.checkpoints.glob("step-*")] == ["step-000004"]
    train_online(cut)
    assert "going on from step 4 of 6" in capsys.readouterr().err
    assert_equal_weights(weights(cut.final), weights(whole.final))


def test_a_stop_in_the_first_rollout_leaves_nothing_and_says_so(make, monkeypatch):
    job = make()
    monkeypatch.setattr(
        rounds, "write_samples", lambda *args, **options: os.kill(os.getpid(), signal.SIGINT)
    )
    with pytest.raises(InterruptedRunError, match="stopped after step 0 of 3; nothing was done"):
        train_online(job)
    assert not list(job.checkpoints.glob("step-*"))


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_sampler_and_trainer_are_compared_at_every_step(make, kind):
    train_online(make(kind, "fine"))
    gaps = [row["sampler_gap"] for row in metrics(make(kind, "fine").folder) if "loss" in row]
    assert len(gaps) == 3
    assert 0 < max(gaps) < 1e-4
    with pytest.raises(VerificationError, match="step 1: sampler and trainer differ by"):
        train_online(make(kind, "strict", sampler_tolerance=1e-12))
