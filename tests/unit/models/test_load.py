import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.config.model import LoraConfig, ModelConfig
from posttrain.errors import CheckpointError, ConfigError
from posttrain.models.load import find_model, load_model, load_model_config, load_tokenizer
from posttrain.models.lora import add_lora
from posttrain.models.tiny import ensure_tiny

IDS = torch.arange(5, 20)[None]


@pytest.fixture
def folder(cache_dir, tmp_path):
    """A copy of the built-in model, to be broken."""
    return shutil.copytree(ensure_tiny("tiny"), tmp_path / "model")


@pytest.fixture
def adapter(folder, tmp_path):
    """An adapter with weights of its own, of the model in `folder`."""
    wrapped = add_lora(load(folder), LoraConfig(rank=2))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", wrapped


def load(path, **options):
    config = ModelConfig(path=str(path))
    return load_model(config, attention="sdpa", dtype="float32", **options)


def check_line(error, *parts):
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c", "nonsense"])
def test_a_missing_folder_is_said(name):
    with pytest.raises(CheckpointError) as error:
        find_model(name)
    check_line(error, name, "no such folder", "tiny")


@pytest.mark.parametrize(
    "read",
    [
        load,
        lambda n: load_tokenizer(ModelConfig(path=n)),
        lambda n: load_model_config(ModelConfig(path=n)),
    ],
)
def test_a_hub_id_offline_is_one_line(read):
    with pytest.raises(CheckpointError) as error:
        read("nobody/nothing-at-all")
    check_line(error, "nobody/nothing-at-all", "hub cannot be reached", "HF_HUB_CACHE")


def test_a_model_loads_on_the_cpu_for_evaluation(folder):
    model = load(folder)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kept", [0, 7, 100, 50_000])
def test_truncated_weights_are_refused(folder, kept):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError) as error:
        load(folder)
    check_line(error, str(folder), "cannot be read")


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as error:
        load(folder)
    check_line(error, str(folder), "cannot be read", "model.safetensors")


def test_missing_weights_are_refused_and_named(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        load(folder)
    check_line(error, "1 weights are missing, such as model.layers.2.mlp.up_proj.weight")


def test_weights_of_another_shape_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        load(folder)
    check_line(error, str(folder), "cannot be read")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "no-such-type"}', "null"])
def test_a_broken_config_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    for read in (load, lambda f: load_model_config(ModelConfig(path=str(f)))):
        with pytest.raises(CheckpointError) as error:
            read(folder)
        check_line(error, str(folder), "cannot be read")


@pytest.mark.parametrize("text", ["", "{", "{}", '{"model": 3}'])
def test_a_broken_tokenizer_is_refused(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError) as error:
        load_tokenizer(ModelConfig(path=str(folder)))
    check_line(error, str(folder), "tokenizer", "cannot be read")


def test_a_chat_template_replaces_the_tokenizers_own(folder, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}|{% endfor %}", encoding="utf-8")
    config = ModelConfig(path=str(folder), chat_template=template)
    messages = [{"role": "user", "content": "你好"}]
    assert load_tokenizer(config).apply_chat_template(messages, tokenize=False) == "你好|"
    template.unlink()
    with pytest.raises(ConfigError, match=r"model\.chat_template .*own\.jinja"):
        load_tokenizer(config)


def test_an_adapter_brings_its_base_model(adapter):
    path, wrapped = adapter
    found = load(path)
    with torch.no_grad():
        assert torch.equal(found(IDS).logits, wrapped.eval()(IDS).logits)
    assert not any(p.requires_grad for p in found.parameters())
    trainable = [n for n, p in load(path, train_adapter=True).named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"base_model_name_or_path": null}'])
def test_a_broken_adapter_config_is_refused(adapter, text):
    path, _ = adapter
    (path / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError) as error:
        load(path)
    check_line(error, "adapter_config.json", "does not name its base model")


@pytest.mark.parametrize("damage", ["truncated", "absent", "partial", "foreign"])
def test_damaged_adapter_weights_are_refused(adapter, damage):
    path, _ = adapter
    file = path / "adapter_model.safetensors"
    weights = load_file(file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "absent":
        file.unlink()
    elif damage == "partial":
        weights.popitem()
        save_file(weights, file, metadata={"format": "pt"})
    else:
        save_file({name: value[:1] for name, value in weights.items()}, file)
    with pytest.raises(CheckpointError) as error:
        load(path)
    check_line(error, str(path))


def test_an_adapter_whose_base_is_gone_says_which(adapter, folder):
    path, _ = adapter
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError) as error:
        load(path)
    check_line(error, str(folder), "no such folder")
    assert json.loads((path / "adapter_config.json").read_text())["r"] == 2
