"""Continued pretraining through the command line, and mistakes with models and data."""

import json

import pytest

from posttrain.config.load import build_recipe
from posttrain.errors import ConfigError, DataError
from posttrain.files import load_jsonl
from posttrain.runs.run import run_recipe
from tests.encoders import save_encoder

pytestmark = pytest.mark.slow

RECIPE = """\
name: small
model: {{path: tiny}}
compute: {{threads: 1, precision: fp32, device: cpu}}
stages:
  - stage: pretrain
    data:
      sources: [{{path: {path}, limit: 200}}]
      split: {{validation: 0.1}}
      block_tokens: 256
    steps: 16
    batch_tokens: 1024
    learning_rate: 3e-3
    save_every_steps: 4
"""


def test_held_out_loss_falls_on_real_text(cli, tmp_path, shared_data):
    (path,) = (p for p in (shared_data / "text").glob("*.txt") if "shakespeare" in p.name)
    (tmp_path / "small.yaml").write_text(RECIPE.format(path=path))
    done = cli("train", "small.yaml")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "small" / "pretrain"
    lines = load_jsonl(folder / "metrics.jsonl")
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    summary = json.loads((folder / "stage.json").read_text())["summary"]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.3
    # Of about 1,500 tokens each equally likely, the model now hesitates between far fewer.
    assert 1 < summary["validation_perplexity"] < 700


def run(tmp_path, stage, **recipe):
    values = {
        "name": "bad",
        "output": str(tmp_path / "runs"),
        "model": {"path": "tiny"},
        "stages": [{"steps": 1, **stage}],
        **recipe,
    }
    return run_recipe(build_recipe(values, [], "test"), "")


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a?", "chosen": "yes", "rejected": "no"}\n')
    return {"sources": [{"path": str(path)}]}


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text('{"instruction": "a?", "output": "yes"}\n')
    return {"sources": [{"path": str(path)}]}


@pytest.mark.parametrize("stage", ["dpo", "reward"])
def test_conversations_in_the_place_of_pairs(tmp_path, chats, stage):
    with pytest.raises(DataError, match=r"chats.jsonl: .*preference") as caught:
        run(tmp_path, {"stage": stage, "data": chats})
    assert "\n" not in str(caught.value)


def test_pairs_in_the_place_of_conversations(tmp_path, pairs):
    with pytest.raises(DataError, match=r"pairs.jsonl: .*chat") as caught:
        run(tmp_path, {"stage": "sft", "data": pairs})
    assert "\n" not in str(caught.value)


def test_pairs_without_a_chosen_answer(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a?", "rejected": "no"}\n' * 3)
    data = {"sources": [{"path": str(path), "format": "preference"}]}
    with pytest.raises(DataError, match=r"pairs.jsonl:1: no `chosen`.*3 of 3 rows are unusable"):
        run(tmp_path, {"stage": "dpo", "data": data})


def test_text_without_text(tmp_path, chats):
    with pytest.raises(
        DataError, match=r"chats.jsonl:1: no text \(none of text, content holds any"
    ):
        run(tmp_path, {"stage": "pretrain", "data": chats})


def test_masked_language_modelling_of_a_causal_model(tmp_path, chats):
    with pytest.raises(ConfigError, match=r"qwen3 is no encoder .*use `stage: pretrain`"):
        run(tmp_path, {"stage": "mlm", "data": chats})
    assert not (tmp_path / "runs" / "bad" / "mlm" / "config.json").exists()


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_an_encoder_in_the_place_of_a_causal_model(tmp_path, chats, stage):
    encoder = save_encoder(tmp_path / "bert", "bert", ["hens and cows"])
    with pytest.raises(
        ConfigError, match="bert is an encoder and writes no text; use `stage: mlm`"
    ):
        run(tmp_path, {"stage": stage, "data": chats}, model={"path": str(encoder)})
