import json

import pytest
import torch

pytest.importorskip("bitsandbytes")

from posttrain.checkpoints import find_damage
from posttrain.config.export import QuantizeConfig, QuantizeSettings
from posttrain.config.load import build_settings
from posttrain.config.model import ModelConfig
from posttrain.errors import ConfigError, DataError, VerificationError
from posttrain.export.publish import write_model
from posttrain.export.quantize import quantize_model
from posttrain.models.load import load_model, load_tokenizer


def quantize(place, out, **settings):
    return quantize_model(ModelConfig(path=str(place)), out, QuantizeSettings(**settings))


@pytest.mark.parametrize(("method", "most_bytes"), [("int8", 0.4), ("nf4", 0.3)])
def test_the_result_is_smaller_loads_and_is_close(method, most_bytes, tmp_path):
    out = tmp_path / "small"
    result = quantize("tiny", out, method=method)
    assert result == json.loads((out / "quantization.json").read_text())
    assert result["weight_bytes"] == (out / "model.safetensors").stat().st_size
    assert result["weight_bytes"] < most_bytes * result["weight_bytes_before"]
    assert abs(result["loss_increase"]) < 0.05
    assert 0 < result["agreement"]["relative_difference"] < 0.3
    assert find_damage(out) is None

    model = load_model(ModelConfig(path=str(out)), attention="sdpa", dtype="float32")
    assert type(model.lm_head) is torch.nn.Linear
    assert type(model.model.layers[0].mlp.up_proj) is not torch.nn.Linear
    assert load_tokenizer(ModelConfig(path=str(out))).chat_template
    again = quantize("tiny", out, method=method)
    assert again == result
    with pytest.raises(ConfigError, match="quantized already"):
        quantize(out, tmp_path / "smaller", method="nf4")


def test_an_adapter_is_merged_first_and_only_the_result_stays(adapter, tmp_path):
    quantize(adapter, tmp_path / "small", method="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    model = load_model(ModelConfig(path=str(tmp_path / "small")), attention="sdpa", dtype="float32")
    whole = load_model(ModelConfig(path=str(adapter)), attention="sdpa", dtype="float32")
    plain = load_model(ModelConfig(path="tiny"), attention="sdpa", dtype="float32")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        found, wanted, base = (m(input_ids=ids).logits for m in (model, whole, plain))
    assert (found - wanted).norm() < 0.2 * (base - wanted).norm()


def test_a_loss_that_rises_too_far_is_refused_and_nothing_written(tmp_path):
    # Large logits: what four bits round off then shows in the loss, also of an untrained model.
    config = ModelConfig(path="tiny")
    model = load_model(config, attention="sdpa", dtype="float32")
    for layer in model.model.layers:
        for linear in (layer.mlp.down_proj, layer.self_attn.o_proj):
            linear.weight.data *= 3
    model.model.norm.weight.data *= 10
    write_model(model, load_tokenizer(config), tmp_path / "m")
    (tmp_path / "sevens.txt").write_text("7" * 300)
    settings = {"method": "nf4", "data": str(tmp_path / "sevens.txt")}
    allowed = quantize(tmp_path / "m", tmp_path / "allowed", **settings, max_loss_increase=50)
    limit = allowed["loss_increase"] / 2
    assert limit > 0.01
    with pytest.raises(VerificationError, match=r"nf4 raises the loss by .* nothing was written"):
        quantize(tmp_path / "m", tmp_path / "small", **settings, max_loss_increase=limit)
    assert not (tmp_path / "small").exists()


def test_the_loss_of_conversations_counts_the_assistants_turns_only(tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Say {i}.", "input": "", "output": f"{i}"} for i in range(10, 20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = quantize("tiny", tmp_path / "a", method="int8", data=str(data))
    assert result["scored_tokens"] == 30  # two digits and the end of the turn
    text = tmp_path / "rows.txt"
    text.write_text("All of this text counts.\n" * 20)
    result = quantize("tiny", tmp_path / "b", method="int8", data=str(text))
    assert result["scored_tokens"] > 100
    with pytest.raises(DataError, match=r"none.jsonl: no such file"):
        quantize("tiny", tmp_path / "c", data=str(tmp_path / "none.jsonl"))


def test_int4_is_told_the_name_of_four_bits():
    with pytest.raises(ConfigError, match="four bits are `nf4` here"):
        build_settings(QuantizeConfig, {"model": "tiny"}, ["method=int4"])
