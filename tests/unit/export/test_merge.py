import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.checkpoints import find_damage
from posttrain.config.export import MergeSettings
from posttrain.config.model import ModelConfig
from posttrain.errors import CheckpointError, ConfigError, VerificationError
from posttrain.export.merge import find_dtype, merge_adapter
from posttrain.models.load import load_model

FAST = {"max_new_tokens": 4}


def merge(place, out, *, base=None, **settings):
    source = ModelConfig(path=str(place))
    return merge_adapter(source, out, MergeSettings(**FAST, **settings), base=base)


def logits(folder):
    model = load_model(ModelConfig(path=str(folder)), attention="sdpa", dtype="float32")
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 40)[None]).logits


def test_a_merged_model_says_what_the_adapter_model_says(adapter, tmp_path):
    result = merge(adapter, tmp_path / "m", test_prompt="What is 3 plus 4?")
    assert torch.allclose(logits(tmp_path / "m"), logits(adapter), atol=1e-4)
    assert not torch.allclose(logits(tmp_path / "m"), logits("tiny"), atol=1e-2)
    assert find_damage(tmp_path / "m") is None
    assert result["agreement"]["relative_difference"] < 1e-5 < result["adapter_effect"]
    assert result["answers"][0]["adapter"] == result["answers"][0]["merged"]
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "m" / name).is_file()


def test_a_second_merge_is_left_alone_and_a_damaged_one_made_again(adapter, tmp_path, capsys):
    out = tmp_path / "m"
    merge(adapter, out)
    written = (out / "model.safetensors").stat().st_mtime_ns
    merge(adapter, out, test_prompt="Hello")
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    (out / "model.safetensors").write_bytes(b"cut off")
    merge(adapter, out)
    assert find_damage(out) is None
    assert "making it again" in capsys.readouterr().err


def test_a_folder_with_other_things_is_not_written_over(adapter, tmp_path):
    out = tmp_path / "taken"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else"):
        merge(adapter, out)
    merge(adapter, tmp_path / "m")
    with pytest.raises(ConfigError, match="holds something else"):
        merge(adapter, tmp_path / "m", dtype="bfloat16")
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_half_precision_and_shards(adapter, tmp_path):
    result = merge(adapter, tmp_path / "m", dtype="bfloat16", max_shard_gib=0.001)
    files = sorted((tmp_path / "m").glob("model-*.safetensors"))
    assert len(files) > 1
    assert {t.dtype for f in files for t in load_file(f).values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "m/config.json").read_text())["dtype"] == "bfloat16"
    assert 1e-4 < result["agreement"]["relative_difference"] < 2e-2


def test_an_update_lost_in_rounding_is_refused_and_nothing_written(weak_adapter, tmp_path):
    with pytest.raises(VerificationError, match=r"most of the training would be lost.*float32"):
        merge(weak_adapter, tmp_path / "m", dtype="bfloat16")
    assert list(tmp_path.iterdir()) == []
    assert merge(weak_adapter, tmp_path / "m")["dtype"] == "float32"


def test_weights_that_are_not_numbers_are_refused(adapter, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    weights = load_file(broken / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VerificationError):
        merge(broken, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_whole_model_has_nothing_to_merge(tmp_path):
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge("tiny", tmp_path / "m")


def test_a_missing_base_is_named_and_can_be_given(adapter, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(adapter, moved)
    settings = json.loads((moved / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "/gone/model"
    (moved / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"/gone/model cannot be found.*base=DIR"):
        merge(moved, tmp_path / "m")
    assert merge(moved, tmp_path / "m", base="tiny")["agreement"]["top1_agreement"] == 1


def test_a_base_of_another_shape_is_refused_in_one_line(adapter, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    from posttrain.models.tiny import ensure_tiny

    config = AutoConfig.from_pretrained(ensure_tiny("tiny"))
    config.hidden_size = 96
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "narrow")
    with pytest.raises(CheckpointError) as raised:
        merge(adapter, tmp_path / "m", base=str(tmp_path / "narrow"))
    assert "\n" not in str(raised.value)


def test_the_number_format_is_that_of_the_model_a_training_began_with(tmp_path):
    load_model(ModelConfig(path="tiny"), attention="sdpa", dtype="bfloat16").save_pretrained(
        tmp_path / "base"
    )
    final = tmp_path / "sft" / "final"
    load_model(ModelConfig(path="tiny"), attention="sdpa", dtype="float32").save_pretrained(final)
    assert find_dtype(ModelConfig(path=str(final))) == "float32"
    lineage = {"parent_model": str(tmp_path / "base")}
    (tmp_path / "sft" / "lineage.json").write_text(json.dumps(lineage))
    assert find_dtype(ModelConfig(path=str(final))) == "bfloat16"


def test_a_reward_models_adapter_is_refused(adapter, tmp_path):
    other = shutil.copytree(adapter, tmp_path / "reward")
    settings = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**settings, "task_type": "SEQ_CLS"}))
    with pytest.raises(ConfigError, match="is of a model for SEQ_CLS"):
        merge(other, tmp_path / "m")
