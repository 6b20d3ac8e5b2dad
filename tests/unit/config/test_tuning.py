import pytest

from posttrain.config.load import build_recipe
from posttrain.errors import ConfigError

SFT = {"stage": "sft", "data": {"sources": [{"path": "/a.jsonl"}]}}
CPT = {"stage": "pretrain", "data": {"sources": [{"path": "/a.txt"}]}}
DPO = {"stage": "dpo", "data": {"sources": [{"path": "/p.jsonl"}]}}


def build(*stages, overrides=(), **values):
    whole = {"name": "r", "model": {"path": "tiny"}, "stages": list(stages), **values}
    return build_recipe(whole, overrides, "recipe.yaml")


def tuned(recipe, name):
    return recipe.tuned_for(next(stage for stage in recipe.stages if stage.name == name))


def test_a_stage_may_be_tuned_in_its_own_way():
    recipe = build(
        {**CPT, "tuning": "full", "freeze": ["embed_tokens"]},
        {**SFT, "lora": {"rank": 4}},
        tuning="lora",
        lora={"alpha": 8, "targets": ["q_proj"]},
    )
    assert tuned(recipe, "pretrain").tuning == "full"
    assert tuned(recipe, "pretrain").freeze == ("embed_tokens",)
    lora = tuned(recipe, "sft").lora
    assert (tuned(recipe, "sft").tuning, lora.rank, lora.alpha) == ("lora", 4, 8)
    assert lora.targets == ("q_proj",)


def test_what_a_stage_says_survives_being_written_and_read():
    recipe = build({**SFT, "lora": {"rank": 4}}, tuning="lora", lora={"dora": True})
    again = build_recipe(recipe.model_dump(mode="json"), (), "again")
    assert again == recipe
    assert tuned(again, "sft").lora.dora


def test_an_override_reaches_a_stage():
    recipe = build(SFT, tuning="lora", overrides=["stages.sft.lora.layers=0-3", "lora.rank=2"])
    lora = tuned(recipe, "sft").lora
    assert (lora.layers, lora.rank) == (("0-3",), 2)


def test_a_stage_that_goes_on_with_an_adapter_has_its_settings():
    recipe = build({**SFT, "lora": {"rank": 4}}, DPO, tuning="lora")
    assert tuned(recipe, "dpo").lora.rank == 4
    assert build(SFT, {**DPO, "lora": {"plus_ratio": 4}}, tuning="lora")
    with pytest.raises(ConfigError, match=r"stage `dpo`: goes on with the adapter of stage `sft`"):
        build(SFT, {**DPO, "lora": {"rank": 4}}, tuning="lora")
    assert build(SFT, {"stage": "merge"}, {**DPO, "lora": {"rank": 4}}, tuning="lora")
    assert build({**SFT, "tuning": "full"}, {**DPO, "lora": {"rank": 4}}, tuning="lora")


@pytest.mark.parametrize("key", ["freeze", "train_only"])
def test_frozen_parts_are_of_full_tuning(key):
    with pytest.raises(ConfigError, match=rf"`{key}` is of `tuning: full`"):
        build(SFT, tuning="lora", **{key: ["layers.0"]})
    with pytest.raises(ConfigError, match=rf"stage `sft`: `{key}` is of `tuning: full`"):
        build(CPT, {**SFT, "tuning": "lora", key: ["layers.0"]})
    assert build(CPT, {**SFT, "tuning": "lora"}, **{key: ["layers.0"]})


@pytest.mark.parametrize(
    "lora",
    [
        {"layers": []},
        {"layers": ["3-"]},
        {"layers": [-1]},
        {"targets": []},
        {"rank_pattern": {"mlp": 0}},
        {"init": "loftq"},
        {"train_rows": "some"},
    ],
)
def test_what_cannot_be_meant_is_refused(lora):
    with pytest.raises(ConfigError, match=r"recipe|lora"):
        build(SFT, tuning="lora", lora=lora)
