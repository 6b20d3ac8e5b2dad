"""The `vllm` back end, as far as it goes without vLLM: what it is asked, and what is read."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from posttrain.config.generation import VllmBackEnd
from posttrain.config.model import ModelConfig
from posttrain.errors import MissingExtraError
from posttrain.generation.engine import VllmGenerator
from posttrain.generation.generator import GenerationOptions, GenerationRequest, write_all
from posttrain.models.tiny import ensure_tiny

OPTIONS = GenerationOptions(9, 0.5, 0.9, 4, ("x",))
REQUESTS = [GenerationRequest((1, 2), seed=2**40 + 3), GenerationRequest((5,), seed=4)]


@pytest.fixture
def vllm(monkeypatch):
    """A stand-in with the documented interface, that notes what it is asked."""
    made = ModuleType("vllm")
    made.__version__, made.asked = "0.0", []

    class LLM:
        def __init__(self, *, model, tokenizer, **settings):
            made.loaded = {"model": model, "tokenizer": tokenizer, **settings}

        def generate(self, prompts, sampling_params, *, use_tqdm, lora_request):
            made.asked.append((prompts, sampling_params, lora_request))
            reasons = ["stop", "length"]
            return [
                SimpleNamespace(
                    outputs=[
                        SimpleNamespace(text=f"t{n}", token_ids=[n, n], finish_reason=reasons[n])
                    ]
                )
                for n in range(len(prompts))
            ]

    made.LLM, made.SamplingParams = LLM, lambda **settings: settings
    made.lora = ModuleType("vllm.lora")
    request = ModuleType("vllm.lora.request")
    request.LoRARequest = lambda *parts: parts
    for name, module in (("vllm", made), ("vllm.lora", made.lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, module)
    return made


def start(tokenizer, path="tiny", **settings):
    config = VllmBackEnd(backend="vllm", **settings)
    return VllmGenerator(config, ModelConfig(path=path), tokenizer, dtype="float32")


def test_without_vllm_the_extra_is_named(tiny_tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"posttrain\[vllm\]"):
        start(tiny_tokenizer)


def test_requests_become_the_engines_parameters(vllm, tiny_tokenizer):
    generator = start(tiny_tokenizer, tensor_parallel=2, gpu_memory_fraction=0.5, max_tokens=99)
    found = write_all(generator, REQUESTS, OPTIONS)
    assert [(c.text, c.token_ids, c.finished) for c in found] == [
        ("t0", (0, 0), True),
        ("t1", (1, 1), False),
    ]
    prompts, parameters, adapter = vllm.asked[0]
    assert prompts == [{"prompt_token_ids": [1, 2]}, {"prompt_token_ids": [5]}]
    assert parameters[0] == {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "stop": ["x"],
        "stop_token_ids": [tiny_tokenizer.eos_token_id],
        "seed": (2**40 + 3) % 2**31,
    }
    assert parameters[1]["seed"] == 4
    assert adapter is None
    assert vllm.loaded["model"] == str(ensure_tiny("tiny"))
    names = ("dtype", "tensor_parallel_size", "gpu_memory_utilization", "max_model_len")
    assert [vllm.loaded[name] for name in names] == ["float32", 2, 0.5, 99]


def test_an_adapter_is_put_on_its_base(vllm, tiny_tokenizer, tmp_path):
    settings = {"base_model_name_or_path": "tiny", "r": 12, "rank_pattern": {"mlp": 20}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    write_all(start(tiny_tokenizer, str(tmp_path)), REQUESTS[:1], GenerationOptions(3))
    assert vllm.loaded["model"] == str(ensure_tiny("tiny"))
    assert (vllm.loaded["enable_lora"], vllm.loaded["max_lora_rank"]) == (True, 32)
    assert vllm.asked[0][2] == ("adapter", 1, str(tmp_path))
    assert vllm.asked[0][1][0]["seed"] is None
