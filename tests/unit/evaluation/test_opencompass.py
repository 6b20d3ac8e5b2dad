import ast
import json

import pytest

from posttrain.config.model import ModelConfig
from posttrain.config.opencompass import OpencompassConfig
from posttrain.errors import ConfigError
from posttrain.evaluation.opencompass import build_entry, write_opencompass
from posttrain.models.tiny import ensure_tiny

# What the classes of OpenCompass 0.5.4 and its tasks take; another name stops it or is passed over.
EVERY = {"type", "abbr", "path", "max_seq_len", "max_out_len", "batch_size", "run_cfg"}
TAKEN = {
    "HuggingFacewithChatTemplate": {
        "model_kwargs", "tokenizer_path", "tokenizer_kwargs", "peft_path", "peft_kwargs",
        "generation_kwargs", "meta_template", "pad_token_id", "stop_words", "mode",
    },
    "HuggingFaceBaseModel": {
        "model_kwargs", "tokenizer_path", "tokenizer_kwargs", "peft_path", "peft_kwargs",
        "generation_kwargs", "pad_token_id", "stop_words",
    },
    "VLLMwithChatTemplate": {
        "model_kwargs", "generation_kwargs", "meta_template", "stop_words", "lora_path",
    },
    "VLLM": {"model_kwargs", "generation_kwargs", "meta_template", "mode", "lora_path"},
    "TurboMindModelwithChatTemplate": {"backend", "engine_config", "gen_config", "meta_template"},
    "TurboMindModel": {"backend", "engine_config", "gen_config", "meta_template"},
    "OpenAISDK": {
        "query_per_second", "retry", "key", "meta_template", "openai_api_base", "temperature",
        "tokenizer_path", "max_workers", "timeout",
    },
}  # fmt: skip


@pytest.fixture
def adapter(tmp_path, cache_dir):
    """An adapter's folder as far as its settings go."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"base_model_name_or_path": str(ensure_tiny("tiny")), "r": 24}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def build(path="tiny", tokenizer=None, **settings):
    model = ModelConfig(path=str(path), tokenizer=tokenizer)
    return build_entry(OpencompassConfig(**settings), model, name="mine", typed="runs/mine")


@pytest.mark.parametrize("engine", ["transformers", "vllm", "lmdeploy", "openai"])
@pytest.mark.parametrize("chat", [True, False])
def test_every_key_is_one_that_the_class_takes(engine, chat):
    entry = build(engine=engine, chat_template=chat, max_tokens=2048)
    assert entry.keys() - EVERY <= TAKEN[entry["type"]]
    assert ("ChatTemplate" in entry["type"]) == (chat and engine != "openai")
    assert entry["max_seq_len"] == 2048
    assert (entry["max_out_len"], entry["batch_size"]) == (1024, 8)
    assert entry["run_cfg"] == {"num_gpus": 0 if engine == "openai" else 1}


def test_an_adapter_is_laid_over_its_base(adapter):
    base = str(ensure_tiny("tiny"))
    entry = build(adapter, "tiny")
    assert (entry["path"], entry["peft_path"]) == (base, str(adapter))
    entry = build(adapter, "tiny", engine="vllm", gpus=2)
    assert (entry["path"], entry["lora_path"]) == (base, str(adapter))
    assert entry["model_kwargs"]["max_lora_rank"] == 24
    assert entry["model_kwargs"]["tensor_parallel_size"] == 2


def test_what_an_engine_cannot_load_is_refused(adapter):
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**settings, "modules_to_save": ["lm_head"]})
    )
    assert build(adapter, "tiny")["peft_path"] == str(adapter)
    with pytest.raises(ConfigError, match="`vllm` does not load its `modules_to_save`"):
        build(adapter, "tiny", engine="vllm")
    with pytest.raises(ConfigError, match="`lmdeploy` does not load"):
        build(adapter, "tiny", engine="lmdeploy")


def test_a_server_is_asked_by_the_name_that_it_goes_by():
    assert build(engine="openai")["path"] == "runs/mine"
    entry = build(engine="openai", served_name="demo", url="http://far:1/v1")
    assert (entry["path"], entry["openai_api_base"]) == ("demo", "http://far:1/v1")


def test_the_file_is_python_that_holds_the_entry_and_nothing_else(tmp_path, cache_dir):
    odd = tmp_path / 'it\'s "odd" {{ x }}'
    model, config = ModelConfig(path="tiny"), OpencompassConfig()
    path = write_opencompass(config, model, odd, name="Runs/My Model", typed="x")
    assert path == odd / "models" / "runs_my_model.py"
    tree = ast.parse(path.read_text())
    imported, assigned = tree.body
    assert (imported.module, imported.names[0].name) == (
        "opencompass.models", "HuggingFacewithChatTemplate",
    )  # fmt: skip
    (call,) = assigned.value.elts
    found = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg != "type"}
    expected = build_entry(config, model, name="runs_my_model", typed="x")
    assert found == {key: value for key, value in expected.items() if key != "type"}
