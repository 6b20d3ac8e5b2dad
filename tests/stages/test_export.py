"""Four-bit training, merging and quantizing through the command line."""

import json
import shutil
from pathlib import Path

import pytest

from posttrain.config.model import ModelConfig
from posttrain.export.publish import write_model
from posttrain.files import digest_file, load_jsonl
from posttrain.models.load import Quantization, load_model, load_tokenizer

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.slow

RECIPE = """\
name: four
model: {path: tiny}
tuning: qlora
lora: {rank: 4}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: train-data, kind: math, num: 300, seed: 1}
  - {stage: sample-data, name: test-data, kind: math, num: 8, seed: 2}
  - stage: sft
    data: {sources: [{from_stage: train-data}]}
    steps: 16
    batch_tokens: 512
    learning_rate: 1e-2
    activation_checkpointing: true
    log_every_steps: 4
    save_every_steps: 8
  - stage: evaluate
    name: tuned
    tasks: &tasks
      - {task: gsm8k, data: {from_stage: test-data}, max_new_tokens: 8, batch_size: 8}
  - {stage: merge, test_prompt: 'What is 3 plus 4?', max_new_tokens: 8}
  - {stage: evaluate, name: merged, compare_to: tuned, tasks: *tasks}
  - {stage: quantize, method: int8, data: {from_stage: test-data}}
  - {stage: evaluate, name: small, model_from: quantize, tasks: *tasks}
"""


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "four.yaml"
    path.write_text(RECIPE)
    return path


def test_qlora_is_trained_resumed_measured_merged_and_quantized(cli, recipe, tmp_path):
    run = tmp_path / "runs" / "four"
    planned = cli("plan", str(recipe))
    assert planned.returncode == 0, planned.stderr
    assert "trainable (qlora)" in planned.stdout
    first = cli("run", str(recipe))
    assert first.returncode == 0, first.stderr
    training = read(run / "sft/stage.json")["summary"]
    assert training["loss_last"] < training["loss_first"] - 0.3
    counted = f"{training['trainable_parameters']:,} of {training['total_parameters']:,}"
    assert counted in planned.stdout  # four-bit weights are counted as what they stand for
    assert "merged onto the full-precision base" in first.stderr
    assert "vllm serve" in first.stdout
    merged = read(run / "merge/final/merge.json")
    assert merged["trained_in_nf4"]
    assert merged["agreement"]["relative_difference"] < 1e-5
    answers = [load_jsonl(run / f"{name}/gsm8k/records.jsonl") for name in ("tuned", "merged")]
    texts = [[record["completion"] for record in records] for records in answers]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 8
    small = read(run / "quantize/final/quantization.json")
    assert small["weight_bytes"] < 0.5 * small["weight_bytes_before"]
    assert (run / "small/gsm8k/results.json").is_file()
    assert cli("run", str(recipe)).stderr.count("unchanged, not run again") == 8
    assert "posttrain merge, all" in cli("explain", str(run / "merge/final")).stdout

    # Interrupted after step 8, it ends with the very same weights.
    weights = run / "sft/final/adapter_model.safetensors"
    digest = digest_file(weights)
    shutil.rmtree(run / "sft/final")
    shutil.rmtree(run / "sft/checkpoints/step-000016")
    again = cli("train", str(recipe))
    assert again.returncode == 0, again.stderr
    assert "going on from step 8 of 16" in again.stderr
    assert digest_file(weights) == digest

    command = cli("merge", str(run / "sft"), "dtype=float16", "max_new_tokens=4")
    assert command.returncode == 0, command.stderr
    assert f"vllm serve {run / 'sft/merged'} --served-model-name four" in command.stdout
    shown = cli("quantize", str(run / "sft/merged"), "method=nf4", "out=small")
    assert shown.returncode == 0, shown.stderr
    assert "weights (float16 to nf4)" in shown.stdout
    assert "bits per weight" in shown.stdout
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_an_adapter_is_trained_on_in_four_bits(cli, recipe, tmp_path):
    second = RECIPE.split("  - stage: evaluate")[0] + (
        "  - {stage: sft, name: more, data: {sources: [{from_stage: test-data}]}, steps: 2}\n"
    )
    recipe.write_text(second.replace("steps: 16", "steps: 2"))
    done = cli("train", str(recipe))
    assert done.returncode == 0, done.stderr
    assert "going on with the adapter" in done.stderr
    files = [tmp_path / f"runs/four/{n}/final/adapter_model.safetensors" for n in ("sft", "more")]
    assert digest_file(files[0]) != digest_file(files[1])


@pytest.mark.parametrize(
    ("tuning", "complaint"), [("full", "cannot be trained"), ("qlora", "quantized already")]
)
def test_quantized_weights_are_not_trained(cli, recipe, tmp_path, tuning, complaint):
    model = load_model(
        ModelConfig(path="tiny"),
        attention="sdpa",
        dtype="float32",
        quantization=Quantization("nf4", "cpu"),
    )
    write_model(model, load_tokenizer(ModelConfig(path="tiny")), tmp_path / "packed")
    refused = cli("train", str(recipe), "model.path=packed", f"tuning={tuning}")
    assert refused.returncode == 2, refused.stderr
    assert complaint in refused.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["merge", "tiny"], 2, "nothing to merge"),
        (["merge", "./nowhere"], 4, "no such folder"),
        (["merge", "tiny", "dtype=int8"], 2, "dtype"),
        (["quantize", "tiny", "method=int4"], 2, "four bits are `nf4` here"),
        (["quantize", "tiny", "method=gguf"], 5, "LLAMA_CPP_DIR"),
        (["quantize", "tiny", "data=none.jsonl"], 3, "none.jsonl: no such file"),
        (["quantize", "./nowhere"], 4, "no such folder"),
    ],
)
def test_mistakes_are_one_line(cli, arguments, status, complaint, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    done = cli(*arguments)
    assert done.returncode == status
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert complaint in errors[0]
    assert "Traceback" not in done.stderr
