"""A LoRA run measured in training, by lm-evaluation-harness, in another template, and elsewhere."""

import ast
import json

import pytest

from posttrain.files import load_json, load_jsonl
from tests.stages.conftest import environment
from tests.stages.started import Forked, run_forked
from tests.stages.test_harness import CHOICE, WRITING
from tests.stages.test_mistakes import complain
from tests.stages.test_vocabulary import TEXT

pytestmark = pytest.mark.slow

RECIPE = """\
name: small
model: {path: tiny}
tuning: lora
lora: {rank: 8}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: train-data, kind: math, num: 300, seed: 1}
  - {stage: sample-data, name: test-data, kind: math, num: 12, seed: 2}
  - stage: sft
    data: {sources: [{from_stage: train-data}], split: {validation: 0}}
    steps: 24
    batch_tokens: 1024
    learning_rate: 1e-2
    log_every_steps: 6
    save_every_steps: 6
    evaluation:
      tasks: [{task: gsm8k, data: {from_stage: test-data}, max_new_tokens: 16}]
      problems: 8
      every_steps: 12
    keep_best: accuracy
  - {stage: evaluate, tasks: [{task: gsm8k, data: {from_stage: test-data}, max_new_tokens: 8}]}
  - {stage: merge, max_new_tokens: 8}
"""
OTHER = """\
name: other
model: {path: runs/small/sft/final, chat_template: qwen2_chatml}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: test-data, kind: math, num: 4, seed: 2}
  - stage: evaluate
    tasks:
      - {task: gsm8k, data: {from_stage: test-data}, max_new_tokens: 4}
      - {task: perplexity, data: {path: held.txt}}
"""
PARTS = ("compute.threads=1", "compute.precision=fp32", "harness.tasks_folder=mine")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache_dir):
    """The folder in which the recipe has been run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(RECIPE)
    (folder / "other.yaml").write_text(OTHER)
    (folder / "held.txt").write_text("Three and four are seven.\n")
    mine = folder / "mine"
    mine.mkdir()
    for name, text in {"choice": CHOICE, "writing": WRITING}.items():
        (mine / f"{name}.yaml").write_text(text.replace("FOLDER", str(mine)))
    choices = [
        {"question": f"What is {i} + {i}?", "options": [str(2 * i), str(2 * i + 1)], "label": 0}
        for i in range(6)
    ]
    answers = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(4)]
    for name, rows in {"choice": choices, "writing": answers}.items():
        (mine / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    around = {**environment(cache_dir), "HF_DATASETS_CACHE": str(folder / "datasets")}

    def run(*arguments, stdin=""):
        return run_forked(
            list(arguments), folder=folder, environment=around, stdin=stdin, timeout=240
        )

    done = run("run", "small.yaml")
    assert done.returncode == 0, done.stderr
    return folder, run, done


def test_tasks_in_training_are_told_kept_and_reported(trained):
    folder, run, done = trained
    stage = folder / "runs/small/sft"
    rows = [r for r in load_jsonl(stage / "metrics.jsonl") if "gsm8k/accuracy" in r]
    assert [row["step"] for row in rows] == [12, 24]
    assert done.stderr.count("  gsm8k  ") == 2
    scores = {row["step"]: row["gsm8k/accuracy"] for row in rows}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert (stage / "checkpoints/best").resolve().name == f"step-{best:06d}"
    manifest = load_json(stage / "checkpoints" / f"step-{best:06d}" / "MANIFEST.json")
    assert manifest["validation"]["gsm8k/accuracy"] == scores[best]
    assert "Task gsm8k/accuracy" in (folder / "runs/small/report.html").read_text()
    both = [f"runs/small/sft/evaluation/step-{step:06d}" for step in (24, 12)]
    compared = run("compare", *both)
    assert compared.returncode == 0, compared.stderr
    assert "gsm8k" in compared.stdout


def test_more_tasks_do_not_train_the_stage_again(trained):
    _, run, _ = trained
    again = run("train", "small.yaml", "stages.sft.evaluation.problems=4")
    assert again.returncode == 0, again.stderr
    assert "stage sft: unchanged, not run again" in again.stderr


def test_a_model_is_asked_in_the_template_that_it_was_trained_with(trained):
    folder, _, done = trained
    run = folder / "runs/small"
    digest = load_json(run / "sft/lineage.json")["chat_template"]
    assert len(digest) == 64
    results = load_json(run / "evaluate/gsm8k/results.json")
    assert results["template"] == {"used": digest, "trained": digest, "same": True}
    assert load_json(run / "merge/final/posttrain.json") == {"chat_template": digest}
    assert load_json(run / "sft/checkpoints/last/posttrain.json") == {"chat_template": digest}
    assert "was trained with the chat template" not in done.stderr


def test_another_template_than_the_trained_one_is_flagged(trained):
    folder, run, _ = trained
    done = run("run", "other.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was trained with the chat template") == 1
    place = folder / "runs/other/evaluate"
    template = load_json(place / "gsm8k/results.json")["template"]
    assert template["same"] is False
    assert template["used"] != template["trained"]
    assert "the model was trained with" in (place / "gsm8k/report.md").read_text()
    assert "template" not in load_json(place / "perplexity/results.json")
    page = (place / "gsm8k/report.html").read_text()
    assert "the model was trained with" in page
    page = (folder / "runs/other/report.html").read_text()
    assert page.count("another chat template than in training") == 1
    base = run("run", "other.yaml", "name=base", "model.path=tiny")
    assert "was trained with the chat template" not in base.stderr
    found = load_json(folder / "runs/base/evaluate/gsm8k/results.json")["template"]
    assert (found["trained"], found["same"]) == (None, None)
    assert "unknown" in (folder / "runs/base/evaluate/gsm8k/report.md").read_text()


def test_a_conversation_in_the_trained_template_is_not_flagged(trained):
    _, run, _ = trained
    done = run("chat", "runs/small/sft", "max_new_tokens=2", stdin="Hello\n\n")
    assert done.returncode == 0, done.stderr
    assert "was trained with the chat template" not in done.stderr


def test_a_server_in_another_template_is_flagged(trained, cache_dir, tmp_path):
    folder, _, _ = trained
    arguments = ["serve", "runs/small/sft", "port=0", "threads=1", "chat_template=qwen2_chatml"]
    server = Forked(arguments, tmp_path, folder=folder, environment=environment(cache_dir))
    try:
        server.wait_for("was trained with the chat template")
    finally:
        server.end()


def test_the_harness_measures_an_adapter_and_flags_plain_text(trained):
    folder, run, _ = trained
    done = run("evaluate", "runs/small/sft", "--harness", "our_choice,our_writing", *PARTS)
    assert done.returncode == 0, done.stderr
    assert "sft/final" in done.stderr
    assert "it is given plain text" in done.stderr
    plain = folder / "runs/small/sft/harness"
    chat = run(
        "evaluate", "runs/small/sft/final", "--harness", "our_writing", *PARTS,
        "harness.chat_template=true", "out=chat",
    )  # fmt: skip
    assert chat.returncode == 0, chat.stderr
    assert "was trained with the chat template" not in chat.stderr
    template = load_json(folder / "chat/our_writing/results.json")["template"]
    assert template["same"] is True
    asked = load_jsonl(folder / "chat/our_writing/records.jsonl")[0]
    assert asked["prompt"][0]["content"] != "What is 0 + 0?\nAnswer:"
    assert "What is 0 + 0?\nAnswer:" in asked["prompt"][0]["content"]
    merged = run("evaluate", "runs/small/merge", "--harness", "our_choice", *PARTS, "out=merged")
    assert merged.returncode == 0, merged.stderr
    sides = [load_jsonl(place / "our_choice/records.jsonl") for place in (plain, folder / "merged")]
    for adapter, whole in zip(*sides, strict=True):
        before, after = ([o["logprob"] for o in r["options"]] for r in (adapter, whole))
        assert before == pytest.approx(after, abs=2e-3)
    base = run("evaluate", "tiny", "--harness", "our_choice", *PARTS, "out=base")
    assert base.returncode == 0, base.stderr
    assert "was trained with" not in base.stderr
    other = load_jsonl(folder / "base/our_choice/records.jsonl")
    assert [r["options"] for r in other] != [r["options"] for r in sides[0]]
    compared = run("compare", "chat", str(plain))
    assert compared.returncode == 0, compared.stderr
    assert "our_writing" in compared.stdout


def test_opencompass_is_told_of_base_and_adapter(trained):
    folder, run, _ = trained
    done = run("evaluate", "small.yaml", "--opencompass")
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "runs/small/opencompass/models").glob("*.py")
    assert f"--models {path.stem} " in done.stdout
    assert f"--config-dir {folder}/runs/small/opencompass" in done.stdout
    entry = ast.parse(path.read_text()).body[-1].value.elts[0]
    found = {key.arg: key.value for key in entry.keywords}
    assert found["type"].id == "HuggingFacewithChatTemplate"
    # The merged model is the newest.
    assert ast.literal_eval(found["path"]) == f"{folder}/runs/small/merge/final"
    done = run("evaluate", "runs/small/sft", "--opencompass", "out=there")
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "there/models").glob("*.py")
    entry = ast.parse(path.read_text()).body[-1].value.elts[0]
    found = {k.arg: ast.literal_eval(k.value) for k in entry.keywords if k.arg != "type"}
    assert found["peft_path"] == f"{folder}/runs/small/sft/final"
    assert (folder / found["path"] / "model.safetensors").is_file()
    lost = run("evaluate", "runs/small/sft", "--opencompass", "opencompass.engine=lmdeploy")
    complain(lost, 2, "is an adapter", "merge it first")
    complain(run("evaluate", "tiny", "--opencompass", "--harness", "x"), 2, "give one of them")


EXTENDED = """\
name: extended
model: {path: tiny}
tuning: lora
lora: {rank: 4, train_in_full: [model.norm], train_rows: added}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: problems, kind: math, num: 60, seed: 1}
  - {stage: extend-tokenizer, texts: [{path: clinic.txt}], new_tokens: 40, min_frequency: 4}
  - {stage: sft, data: {sources: [{from_stage: problems}]}, steps: 3, batch_tokens: 1024,
     learning_rate: 1e-2}
  - {stage: merge, max_new_tokens: 4}
"""


def test_the_harness_measures_added_tokens_and_whole_modules(trained):
    folder, run, _ = trained
    (folder / "extended.yaml").write_text(EXTENDED)
    (folder / "clinic.txt").write_text(TEXT)
    done = run("run", "extended.yaml")
    assert done.returncode == 0, done.stderr
    settings = load_json(folder / "runs/extended/sft/final/adapter_config.json")
    assert settings["modules_to_save"]
    assert settings["trainable_token_indices"]
    (folder / "mine/clinic.yaml").write_text(
        CHOICE.replace("our_choice", "clinic").replace("FOLDER/choice", f"{folder}/mine/clinic")
    )
    row = {"question": TEXT.split("\n\n")[0], "options": ["糖尿病", "二甲双胍"], "label": 0}
    (folder / "mine/clinic.jsonl").write_text(json.dumps(row) + "\n")
    scores = []
    for target in ("runs/extended/sft", "runs/extended/merge/final"):
        out = f"scores-{len(scores)}"
        measured = run("evaluate", target, "--harness", "clinic", *PARTS, f"out={out}")
        assert measured.returncode == 0, measured.stderr
        (record,) = load_jsonl(folder / out / "clinic/records.jsonl")
        scores.append([option["logprob"] for option in record["options"]])
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)
