"""What `plan` counts without building weights is what training trains."""

import pytest

from posttrain.config.load import build_recipe
from posttrain.config.model import LoraConfig, ModelConfig
from posttrain.errors import ConfigError
from posttrain.models.load import load_base_config, load_model
from posttrain.models.lora import add_lora
from posttrain.runs.tuning import check_tuning, count_stage_parameters
from posttrain.runtime import Compute
from posttrain.training.guards.start import check_trainable
from posttrain.training.model import build_model
from posttrain.training.reward import build_reward_model
from posttrain.training.stage import TrainingJob

SFT = {"stage": "sft", "data": {"sources": [{"path": "/rows.jsonl"}]}}
REWARD = {"stage": "reward", "data": {"sources": [{"path": "/pairs.jsonl"}]}}
SETTINGS = {
    "full": {},
    "frozen": {"freeze": ["embed_tokens", "layers.0"]},
    "part": {"train_only": ["layers.1-2.mlp"]},
    "lora": {"tuning": "lora", "lora": {"rank": 3}},
    "all-linear": {"tuning": "lora", "lora": {"targets": "all-linear"}},
    "dora": {"tuning": "lora", "lora": {"dora": True, "layers": [1], "rank_pattern": {"mlp": 5}}},
    "whole": {"tuning": "lora", "lora": {"train_in_full": ["lm_head", "input_layernorm"]}},
    "rows": {"tuning": "lora", "lora": {"train_rows": [5, 9, "the"], "init": "orthogonal"}},
}


def count_both(stage, settings, path, tmp_path, build):
    values = {"name": "r", "model": {"path": path}, "stages": [stage], **settings}
    recipe = build_recipe(values, (), "test")
    stage = recipe.stages[0]
    tuned = recipe.tuned_for(stage)
    total, trainable, _ = count_stage_parameters(tuned, stage, load_base_config(recipe.model))
    compute = Compute("cpu", "fp32", 1, "a test")
    model = build(TrainingJob(tuned, stage, tmp_path, compute, ""))
    return (trainable, total), check_trainable(model)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_count_is_what_is_trained(name, tmp_path):
    planned, real = count_both(SFT, SETTINGS[name], "tiny", tmp_path, build_model)
    assert planned == real
    assert 0 < real[0] <= real[1]


def test_a_qlora_of_every_kind_is_counted_too(tmp_path):
    pytest.importorskip("bitsandbytes")
    lora = {"dora": True, "rank_pattern": {"mlp": 5}, "train_rows": [5], "train_in_full": ["norm"]}
    settings = {"tuning": "qlora", "lora": lora}
    planned, real = count_both(SFT, settings, "tiny", tmp_path, build_model)
    assert planned == real


@pytest.mark.parametrize("name", ["full", "part", "lora", "rows"])
def test_a_reward_model_is_counted_with_its_head(name, tmp_path):
    settings = SETTINGS[name]
    planned, real = count_both(REWARD, settings, "tiny", tmp_path, build_reward_model)
    assert planned == real


@pytest.mark.parametrize("parallel", ["zero3", "file"])
def test_rows_of_matrices_that_are_shared_out_are_refused(parallel, tmp_path):
    own = tmp_path / "ds.json"
    own.write_text('{"zero_optimization": {"stage": 3}}')
    settings = {"strategy": "zero3"} if parallel == "zero3" else {"deepspeed": str(own)}
    values = {"name": "r", "model": {"path": "tiny"}, "stages": [SFT], "parallel": settings}
    values |= {"tuning": "lora", "lora": {"train_rows": [5]}}
    recipe = build_recipe(values, (), "test")
    with pytest.raises(ConfigError, match=r"lora\.train_rows needs whole embeddings"):
        check_tuning(recipe)
    config = load_base_config(recipe.model)
    with pytest.raises(ConfigError, match=r"lora\.train_rows needs whole embeddings"):
        count_stage_parameters(recipe, recipe.stages[0], config)  # what `auto` finds later
    own.write_text('{"zero_optimization": {"stage": 2}}')
    values["parallel"] = {"deepspeed": str(own)}
    check_tuning(build_recipe(values, (), "test"))
    values |= {"parallel": {"strategy": "zero3"}, "lora": {"train_rows": []}}
    check_tuning(build_recipe(values, (), "test"))


def test_an_adapter_that_is_trained_on_is_counted_as_it_is(tmp_path):
    base = load_model(ModelConfig(path="tiny"), attention="sdpa", dtype="float32")
    config = LoraConfig(rank=7, dora=True, train_in_full=("model.norm",))
    add_lora(base, config, rows=(4, 5)).save_pretrained(tmp_path / "adapter")
    settings = {"tuning": "lora", "lora": {"rank": 2}}
    planned, real = count_both(SFT, settings, str(tmp_path / "adapter"), tmp_path, build_model)
    assert planned == real
