"""Tasks in the middle of training: they change nothing of it, and the best is kept by them."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from posttrain.config.load import build_recipe
from posttrain.errors import CheckpointError, ConfigError, InterruptedRunError
from posttrain.files import load_json, load_jsonl
from posttrain.models.load import load_tokenizer
from posttrain.runs.exams import TaskExam, check_exam
from posttrain.samples.math import generate_math
from posttrain.training.online import train_online
from posttrain.training.preference import train_dpo
from posttrain.training.sft import train_sft
from tests.metrics import drop_times

LORA = {"tuning": "lora", "lora": {"rank": 4, "dropout": 0.2}}


@pytest.fixture(scope="session")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    rows = generate_math(20, seed=77)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"What is {i} plus 1?", "chosen": str(i + 1), "rejected": "I do not know."}
        for i in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "held.txt"
    path.write_text("\n\n".join(f"Add {i} and {i + 1} to get {2 * i + 1}." for i in range(12)))
    return path


def tasks_of(problems, text):
    return [
        {"task": "gsm8k", "data": {"path": str(problems)}, "max_new_tokens": 6},
        {
            "task": "perplexity",
            "name": "text",
            "data": {"path": str(text)},
            "documents": "paragraph",
        },
    ]


def with_exam(job):
    stage = job.stage
    exam = TaskExam(
        stage.evaluation,
        job.folder,
        load_tokenizer(job.recipe.model),
        model_name="test",
        save_every_steps=stage.save_every_steps,
    )
    return replace(job, exam=exam)


def weights(folder):
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def same_weights(left, right):
    return left.keys() == right.keys() and all(left[n].equal(right[n]) for n in left)


def losses(job):
    rows = load_jsonl(job.folder / "metrics.jsonl")
    return drop_times(row for row in rows if "loss" in row)


STAGES = {
    "sft": ({}, train_sft, {"neftune_alpha": 5.0, "activation_checkpointing": True}),
    "lora": (LORA, train_sft, {}),
    "dpo": (LORA, train_dpo, {"stage": "dpo"}),
    "grpo": (
        LORA,
        train_online,
        {
            "stage": "grpo", "steps": None, "rollouts": 4, "prompts_per_rollout": 2,
            "completions": 2, "max_new_tokens": 6, "batch_tokens": 2048,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STAGES)
def test_training_is_the_same_to_the_bit_with_tasks_and_without(
    request,
    kind,
    make_job,
    problems,
    text,
    pairs,
):
    recipe, train, settings = STAGES[kind]
    if kind == "dpo":
        data = {"sources": [{"path": str(pairs)}], "split": {"validation": 0.2}}
        settings = {**settings, "data": data}
    if kind == "grpo":
        rewards = {"answer": 0, "model": str(request.getfixturevalue("judge"))}
        settings = {**settings, "rewards": rewards}
    evaluation = {"tasks": tasks_of(problems, text), "problems": 6}
    measured = with_exam(make_job("with", recipe=recipe, evaluation=evaluation, **settings))
    plain = make_job("without", recipe=recipe, **settings)
    train(measured)
    train(plain)
    assert same_weights(weights(measured.final), weights(plain.final))
    assert losses(measured) == losses(plain)
    rows = [row for row in load_jsonl(measured.folder / "metrics.jsonl") if "gsm8k/accuracy" in row]
    assert [row["step"] for row in rows] == ([2, 4] if kind == "grpo" else [2, 4, 6])
    for row in rows:
        assert row["gsm8k/accuracy_low"] <= row["gsm8k/accuracy"] <= row["gsm8k/accuracy_high"]
    # What is measured is the model as it is then, and it learns.
    scores = [row["text/perplexity"] for row in rows]
    assert len(set(scores)) == len(scores)


def test_the_best_by_a_task_is_kept_resumed_and_left(make_job, problems, text):
    settings = {
        "evaluation": {"tasks": tasks_of(problems, text), "problems": 6},
        "data": {"sources": [{"path": "rows"}], "split": {"validation": 0}},
        "keep_best": "text/perplexity",
        "final_model": "best",
        "learning_rate": 0.5,  # which soon does harm
        "warmup": 0,
        "keep_last": 1,
        "recipe": LORA,
    }
    known = make_job("known").stage.data
    settings["data"] = {**known.model_dump(mode="json"), "split": {"validation": 0}}
    job = with_exam(make_job("whole", **settings))
    summary = train_sft(job)
    rows = load_jsonl(job.folder / "metrics.jsonl")
    scores = {row["step"]: row["text/perplexity"] for row in rows if "text/perplexity" in row}
    best = min(scores, key=scores.__getitem__)
    assert set(scores) == {2, 4, 6}
    assert summary.best_step == best
    assert (job.checkpoints / "best").resolve().name == f"step-{best:06d}"
    assert summary.validation["text/perplexity"] == scores[best]
    assert same_weights(weights(job.final), weights(job.checkpoints / f"step-{best:06d}"))
    copy = replace(job, folder=job.folder.with_name("copy"))
    shutil.copytree(job.folder, copy.folder, symlinks=True)
    shutil.rmtree(copy.final)
    last = copy.checkpoints / "step-000006"
    if best != 6:
        shutil.rmtree(last)
    resumed = train_sft(with_exam(copy))
    assert resumed.best_step == best
    again = {
        row["step"]: row["text/perplexity"]
        for row in load_jsonl(copy.folder / "metrics.jsonl")
        if "text/perplexity" in row
    }
    assert again == scores
    assert same_weights(weights(copy.final), weights(job.final))


def test_a_stage_stops_early_by_a_task(make_job, problems, text, capsys):
    job = make_job(
        "stops",
        evaluation={"tasks": tasks_of(problems, text), "problems": 6, "every_steps": 4},
        early_stopping={"metric": "text/perplexity", "patience": 1, "min_delta": 1e9},
        steps=20,
    )
    summary = train_sft(with_exam(job))
    assert summary.steps == 8
    assert "text/perplexity has not got better" in summary.stopped_early
    rows = load_jsonl(job.folder / "metrics.jsonl")
    assert [row["step"] for row in rows if "text/perplexity" in row] == [4, 8]


class Interrupting:
    """An exam in whose middle the process is asked to stop, once."""

    def __init__(self, exam):
        self._exam = exam
        self.is_due = exam.is_due
        self._checked = 0

    def measure(self, model, step, check):
        def check_and_stop():
            self._checked += 1
            if self._checked == 2:  # before the second task
                os.kill(os.getpid(), signal.SIGTERM)
            check()

        return self._exam.measure(model, step, check_and_stop)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_stop_in_the_middle_of_tasks_loses_nothing(tuning, make_job, problems, text, capsys):
    settings = {
        "evaluation": {"tasks": tasks_of(problems, text), "problems": 6},
        "keep_best": "text/perplexity",
        "recipe": LORA if tuning == "lora" else {},
    }
    whole = with_exam(make_job("whole", **settings))
    train_sft(whole)
    job = with_exam(make_job("cut", **settings))
    with pytest.raises(InterruptedRunError, match="stopped after step 2 of 6; all is saved"):
        train_sft(replace(job, exam=Interrupting(job.exam)))
    assert [path.name for path in job.checkpoints.glob("step-*")] == ["step-000002"]
    assert "gsm8k/accuracy" not in (job.folder / "metrics.jsonl").read_text()
    train_sft(job)
    assert same_weights(weights(job.final), weights(whole.final))
    scores = [
        [(r["step"], r["text/perplexity"]) for r in load_jsonl(one.folder / "metrics.jsonl")
         if "text/perplexity" in r]
        for one in (job, whole)
    ]  # fmt: skip
    assert scores[0] == scores[1]
    assert len(scores[0]) == 3


def test_what_is_measured_is_left_as_an_evaluation(make_job, problems, text):
    evaluation = {"tasks": tasks_of(problems, text), "problems": 6, "seed": 3}
    job = with_exam(make_job("left", steps=2, evaluation=evaluation))
    train_sft(job)
    folder = job.folder / "evaluation" / "step-000002"
    records = load_jsonl(folder / "gsm8k" / "records.jsonl")
    assert len(records) == 6
    results = load_json(folder / "gsm8k" / "results.json")
    (row,) = [r for r in load_jsonl(job.folder / "metrics.jsonl") if "gsm8k/accuracy" in r]
    assert results["value"] == row["gsm8k/accuracy"]
    assert results["step"] == 2
    chosen = load_json(job.folder / "evaluation" / "subset.json")["gsm8k"]["problems"]
    assert [record["id"] for record in records] == [
        f"problems.jsonl:{c.rpartition(':')[2]}" for c in chosen
    ]


def test_other_problems_than_before_are_refused(make_job, problems, text, tmp_path):
    own = tmp_path / "problems.jsonl"
    shutil.copy(problems, own)
    job = make_job("changed", evaluation={"tasks": tasks_of(own, text), "problems": 6})
    with_exam(job)
    with_exam(job)
    rows = [json.loads(line) for line in own.read_text().splitlines()]
    own.write_text("".join(json.dumps({**row, "answer": "#### 1"}) + "\n" for row in rows))
    with pytest.raises(CheckpointError, match="measured on other problems of `gsm8k`"):
        with_exam(job)


def test_shared_out_weights_cannot_write(problems, text, tiny_tokenizer):
    values = {
        "name": "x", "model": {"path": "tiny"}, "parallel": {"strategy": "zero3"},
        "stages": [
            {"stage": "sft", "data": {"sources": [{"path": "rows.jsonl"}]},
             "evaluation": {"tasks": tasks_of(problems, text)}},
        ],
    }  # fmt: skip
    recipe = build_recipe(values, [], "test")
    with pytest.raises(ConfigError, match="ZeRO-3 shares them out"):
        check_exam(recipe, recipe.stages[0].evaluation, tiny_tokenizer)
