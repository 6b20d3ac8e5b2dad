"""Models that cannot be packed, through the command line: padded rows from SFT to DPO and GRPO."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, Qwen3NextConfig

from posttrain.files import load_jsonl
from posttrain.models.tiny import ensure_tiny

pytestmark = pytest.mark.slow

RECIPE = """\
name: small
model: {path: unpackable}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: chats, kind: chat, num: 60, seed: 1}
  - {stage: sample-data, name: pairs, kind: preference, num: 24, seed: 2}
  - {stage: sft, data: {sources: [{from_stage: chats}], split: {validation: 0.2}}, steps: 8,
     batch_tokens: 1024, learning_rate: 5e-3, save_every_steps: 4}
  - {stage: dpo, data: {sources: [{from_stage: pairs}], split: {validation: 0.25}}, steps: 4,
     batch_tokens: 2048, learning_rate: 1e-3, save_every_steps: 2}
"""
GRPO = """\
name: answers
model: {path: unpackable}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: pairs, kind: preference, num: 24, seed: 2}
  - {stage: sample-data, name: problems, kind: math, num: 40, seed: 1}
  - {stage: reward, data: {sources: [{from_stage: pairs}], split: {validation: 0.25}}, steps: 2}
  - {stage: grpo, start_from: base, data: {sources: [{from_stage: problems}]}, kl_weight: 0.02,
     rewards: {model_from: reward}, rollouts: 2, prompts_per_rollout: 4, completions: 2,
     max_new_tokens: 8}
"""
SHAPE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
NEXT = {
    **SHAPE,
    "intermediate_size": 64,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def save_model(folder, config_class, settings):
    """A random model with the tokenizer and template of the built-in one."""
    tokenizer = AutoTokenizer.from_pretrained(ensure_tiny("tiny"))
    marks = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = config_class(**settings, vocab_size=len(tokenizer), bos_token_id=None, **marks)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_linear_attention_is_fine_tuned_and_learns_pairs_in_rows(cli, tmp_path):
    save_model(tmp_path / "unpackable", Qwen3NextConfig, NEXT)
    (tmp_path / "small.yaml").write_text(RECIPE)
    planned = cli("plan", "small.yaml")
    assert planned.returncode == 0, planned.stderr
    assert "attention   padded" in planned.stdout

    done = cli("run", "small.yaml")
    assert done.returncode == 0, done.stderr
    said = "attention: padded, transformers' own sdpa: qwen3_next: its layers (linear_attention)"
    assert said in done.stderr
    for stage in ("sft", "dpo"):
        folder = tmp_path / "runs" / "small" / stage
        lines = load_jsonl(folder / "metrics.jsonl")
        held_out = [line["validation_loss"] for line in lines if "validation_loss" in line]
        assert held_out[-1] < held_out[0]
        lineage = json.loads((folder / "lineage.json").read_text())
        assert lineage["attention"].startswith("padded, transformers' own sdpa: qwen3_next")
        AutoModelForCausalLM.from_pretrained(folder / "final")


def test_attention_of_its_own_judges_writes_and_learns_from_answers(cli, tmp_path):
    save_model(tmp_path / "unpackable", BloomConfig, SHAPE)
    (tmp_path / "answers.yaml").write_text(GRPO)
    done = cli("run", "answers.yaml")
    assert done.returncode == 0, done.stderr
    assert "padded, transformers' own sdpa: bloom: its attention is code of its own" in done.stderr
    lines = load_jsonl(tmp_path / "runs" / "answers" / "grpo" / "metrics.jsonl")
    # The model that wrote an answer scores it in rows as it did when it wrote it.
    assert [line["policy_kl"] for line in lines] == pytest.approx([0] * len(lines), abs=1e-3)


def test_a_wish_that_cannot_be_met_stops_before_anything_is_run(cli, tmp_path):
    save_model(tmp_path / "unpackable", BloomConfig, SHAPE)
    (tmp_path / "small.yaml").write_text(RECIPE)
    done = cli("run", "small.yaml", "model.attention=flash_attention_2")
    assert done.returncode == 2
    assert "model.attention: flash_attention_2 is for packed batches" in done.stderr
    assert "Traceback" not in done.stderr
    done = cli("run", "small.yaml", "model.attention=flash_attention_2", "model.path=tiny")
    assert done.returncode == 2
    assert "flash_attention_2 needs a CUDA GPU" in done.stderr
    assert not (tmp_path / "runs" / "small" / "sft" / "checkpoints").exists()
