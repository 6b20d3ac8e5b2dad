import os
from pathlib import Path

import pytest
import torch

from posttrain.config.export import QuantizeSettings
from posttrain.config.model import ModelConfig
from posttrain.errors import CheckpointError, ConfigError, MissingExtraError
from posttrain.export.gguf import find_converter
from posttrain.export.publish import write_model
from posttrain.export.quantize import quantize_model
from posttrain.models.load import load_model, load_tokenizer


@pytest.fixture
def converter():
    pytest.importorskip("gguf")
    found = os.environ.get("LLAMA_CPP_DIR")
    if not found:
        pytest.skip("LLAMA_CPP_DIR does not say where llama.cpp's converter is")
    return find_converter(Path(found))


def test_without_the_converter_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    with pytest.raises(MissingExtraError, match=r"llama_cpp_converter=DIR .*LLAMA_CPP_DIR"):
        find_converter(None)
    with pytest.raises(ConfigError, match=r"there is no convert_hf_to_gguf.py"):
        find_converter(tmp_path)
    (tmp_path / "convert_hf_to_gguf.py").touch()
    assert find_converter(tmp_path) == find_converter(tmp_path / "convert_hf_to_gguf.py")
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    assert find_converter(None) == tmp_path / "convert_hf_to_gguf.py"


def test_an_unknown_tokenizer_is_one_clear_line(converter, tmp_path):
    settings = QuantizeSettings(method="gguf", llama_cpp_converter=converter)
    with pytest.raises(CheckpointError, match="does not know this model's tokenizer"):
        quantize_model(ModelConfig(path="tiny"), tmp_path / "g", settings)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_converter_is_quoted_in_one_line(tmp_path):
    pytest.importorskip("gguf")
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("raise SystemExit('Model NoSuch is not supported')\n")
    settings = QuantizeSettings(method="gguf", llama_cpp_converter=script)
    with pytest.raises(CheckpointError, match="refuses the model: Model NoSuch is not supported"):
        quantize_model(ModelConfig(path="tiny"), tmp_path / "g", settings)
    assert not (tmp_path / "g").exists()


@pytest.mark.slow
def test_a_file_with_a_known_tokenizer_agrees_with_its_source(converter, shared_data, tmp_path):
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "qwen3")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 32}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "tie_word_embeddings": True}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=151_936, **sizes, **heads))
    write_model(model, tokenizer, tmp_path / "model")
    settings = QuantizeSettings(method="gguf", gguf_type="f16", llama_cpp_converter=converter)
    result = quantize_model(ModelConfig(path=str(tmp_path / "model")), tmp_path / "g", settings)
    assert result["agreement"]["relative_difference"] < 1e-2
    loaded = ModelConfig(path=str(tmp_path / "g"))
    assert load_model(loaded, attention="sdpa", dtype="float32").config.head_dim == 32
    assert len(load_tokenizer(loaded)) == len(tokenizer)
