"""What of a model is trained, through whole stages: resumed, merged, taken up, evaluated."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from posttrain.config.export import MergeSettings
from posttrain.config.load import build_recipe
from posttrain.config.model import ModelConfig
from posttrain.export.merge import merge_adapter
from posttrain.models.load import load_model
from posttrain.training.sft import train_sft

ROWS = [5, 9]
ADAPTERS = {
    "dora": {"dora": True, "rank_pattern": {"mlp": 6}, "dropout": 0.2},
    "rslora": {"rslora": True, "init": "orthogonal", "layers": [1]},
    "head": {"train_in_full": ["lm_head", "model.norm"], "targets": ["q_proj"]},
    "rows": {"train_rows": ROWS, "dropout": 0.2},
}
TUNINGS = {
    **{name: {"tuning": "lora", "lora": {"rank": 4, **lora}} for name, lora in ADAPTERS.items()},
    "frozen": {"freeze": ["embed_tokens", "layers.0"]},
}


def weights(folder):
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def logits(place):
    model = load_model(ModelConfig(path=str(place)), attention="sdpa", dtype="float32")
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 40)[None]).logits


def resume(job, tmp_path):
    """Train again from the checkpoint in the middle."""
    copy = replace(job, folder=tmp_path / "copy")
    shutil.copytree(job.folder, copy.folder, symlinks=True)
    shutil.rmtree(copy.final)
    shutil.rmtree(copy.checkpoints / "step-000004")
    train_sft(copy)
    return weights(copy.final)


@pytest.mark.parametrize("name", TUNINGS)
def test_resume_continues_bit_for_bit_and_a_merge_says_the_same(make_job, name, tmp_path, capsys):
    job = make_job("unbroken", recipe=TUNINGS[name], steps=4)
    train_sft(job)
    whole = weights(job.final)
    again = resume(job, tmp_path)
    assert "going on from step 2 of 4" in capsys.readouterr().err
    assert again.keys() == whole.keys()
    assert [key for key in whole if not torch.equal(again[key], whole[key])] == []
    trained = logits(job.final)
    assert not torch.allclose(trained, logits("tiny"), atol=1e-3)
    if name == "frozen":
        base = load_model(ModelConfig(path="tiny"), attention="sdpa", dtype="float32").state_dict()
        kept = {key for key in whole if torch.equal(whole[key], base[key])}
        assert kept == {k for k in whole if "embed_tokens" in k or "layers.0." in k}
        return
    source = ModelConfig(path=str(job.final))
    result = merge_adapter(source, tmp_path / "merged", MergeSettings(max_new_tokens=4))
    assert result["agreement"]["relative_difference"] < 1e-5 < result["adapter_effect"]
    assert torch.allclose(logits(tmp_path / "merged"), trained, atol=1e-4)


def test_noise_on_embeddings_is_resumed_and_changes_what_is_learned(make_job, tmp_path):
    plain = make_job("plain", steps=4)
    train_sft(plain)
    job = make_job("noisy", steps=4, neftune_alpha=5.0)
    train_sft(job)
    whole = weights(job.final)
    assert not torch.equal(weights(plain.final)["model.norm.weight"], whole["model.norm.weight"])
    again = resume(job, tmp_path)
    assert [key for key in whole if not torch.equal(again[key], whole[key])] == []


@pytest.mark.parametrize("name", ["head", "rows"])
def test_full_tuning_goes_on_from_what_adapters_have_learned(make_job, name):
    first = make_job("first", recipe=TUNINGS[name], steps=2)
    train_sft(first)
    values = {**first.recipe.model_dump(mode="json"), "tuning": "full"}
    values["model"] = {"path": str(first.final)}
    recipe = build_recipe(values, [], "test")
    stage = recipe.stages[0].model_copy(update={"learning_rate": 1e-9})
    job = replace(first, recipe=recipe, stage=stage, folder=first.folder.with_name("full"))
    train_sft(job)
    assert torch.allclose(logits(job.final), logits(first.final), atol=1e-4)
    assert json.loads((job.final / "config.json").read_text())["tie_word_embeddings"]
    assert "lm_head.weight" not in weights(job.final)
