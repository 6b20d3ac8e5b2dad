"""Whatever a model does at its output, scores and gradients are those of its own logits."""

from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.layout import Segment, build_batch
from posttrain.models.attention import register_attention
from posttrain.models.lora import quiet_peft
from posttrain.models.output_layer import check_scorable
from posttrain.models.packed import prepare_packed, score_batch

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
FORMS = {
    "gemma2": {"final_logit_softcapping": 1.5, "attn_logit_softcapping": None},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0},
    "qwen3": {},
}


def build_model(family: str, *, tied: bool, attention: str) -> Any:
    register_attention()
    torch.manual_seed(3)
    settings = {**SHAPE, **FORMS[family], "tie_word_embeddings": tied}
    config = AutoConfig.for_model(family, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_batch() -> dict[str, Any]:
    random = np.random.default_rng(7)
    weights = [0.0, *random.choice([0.0, 0.5, 1.0], 11), 1.0]
    packed = build_batch([Segment(random.integers(2, 97, 13), np.array(weights))]).items()
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in packed}


def expected_gradients(model: Any, batch: dict[str, Any], temperature: float) -> Any:
    """Of transformers' and peft's own forward pass."""
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits[0].float() / temperature
    logp = logits[batch["score_positions"]].log_softmax(-1)
    chosen = logp.gather(-1, batch["score_targets"][:, None])[:, 0]
    return finish(model, chosen, batch)


def found_gradients(model: Any, batch: dict[str, Any], temperature: float, told: bool) -> Any:
    weights = batch["score_weights"]
    known = {"score_upstream": -weights / weights.sum()} if told else {}
    scores = score_batch(model, {**batch, **known}, temperature=temperature)
    return finish(model, scores.logprobs_N, batch)


def finish(model: Any, logprobs: torch.Tensor, batch: dict[str, Any]) -> Any:
    weights = batch["score_weights"]
    (-(logprobs * weights).sum() / weights.sum()).backward()
    named = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logprobs.detach(), named


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=2e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        error = float((found[1][name] - gradient).norm())
        assert error <= 1e-5 * float(gradient.norm()) + 1e-9, name


@pytest.mark.parametrize("told", [True, False], ids=["loss known", "loss not known"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FORMS)
def test_scaled_and_bent_logits(family, tied, told):
    batch = make_batch()
    plain = build_model(family, tied=tied, attention="eager")
    ours = build_model(family, tied=tied, attention="posttrain_eager")
    check_scorable(ours.config)
    prepare_packed(ours)
    for temperature in (1.0, 0.7):
        expected = expected_gradients(plain, batch, temperature)
        assert_same(found_gradients(ours, batch, temperature, told), expected)
    # And what the model makes of plain calls is as it was.
    ours.set_attn_implementation("eager")
    ids = batch["input_ids"]
    assert torch.equal(ours(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("told", [True, False], ids=["loss known", "loss not known"])
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "granite"])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["adapter", "trained whole"],
)
def test_output_layers_within_adapters(family, settings, told):
    batch = make_batch()
    models = []
    for attention in ("eager", "posttrain_eager"):
        model = build_model(family, tied=False, attention=attention)
        if attention == "posttrain_eager":
            prepare_packed(model)
        config = peft.LoraConfig(r=3, lora_alpha=5, task_type="CAUSAL_LM", **settings)
        torch.manual_seed(4)
        with quiet_peft():
            models.append(peft.get_peft_model(model, config))
        with torch.no_grad():  # a fresh adapter adds nothing
            for name, parameter in models[-1].named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    plain, ours = models
    expected = expected_gradients(plain, batch, 1.0)
    assert any("lm_head" in name for name in expected[1])
    assert_same(found_gradients(ours, batch, 1.0, told), expected)
    with torch.no_grad(), plain.disable_adapter(), ours.disable_adapter():
        bare = score_batch(ours, batch).logprobs_N
        logits = plain(input_ids=batch["input_ids"], use_cache=False).logits[0].float()
    chosen = logits[batch["score_positions"]].log_softmax(-1)
    chosen = chosen.gather(-1, batch["score_targets"][:, None])[:, 0]
    torch.testing.assert_close(bare, chosen, rtol=1e-5, atol=2e-6)
