"""Which method changes which weight, and that every method goes on from its saved state."""

import copy
import io
import math
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from posttrain.config.load import build_recipe
from posttrain.config.model import LoraConfig
from posttrain.errors import ConfigError
from posttrain.models.lora import add_lora
from posttrain.training.optimizers import (
    PartedOptimizer,
    build_optimizer,
    check_optimizer,
    weigh_state,
)

METHODS = ["adamw", "adamw_8bit", "adafactor", "muon"]


def build_model(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=False,
        attention_bias=True,
    )
    return Qwen3ForCausalLM(config).to(dtype)


def recipe_for(stage: dict[str, Any], **changes: Any) -> Any:
    sft = {"stage": "sft", "data": {"sources": [{"path": "rows.jsonl"}]}, **stage}
    whole = {"name": "t", "model": {"path": "tiny"}, "stages": [sft], **changes}
    return build_recipe(whole, (), "a test")


def build(model: Any, *, recipe: dict[str, Any] | None = None, **stage: Any) -> Any:
    made = recipe_for(stage, **(recipe or {}))
    return build_optimizer(model, made.stages[0], made)


def advance(model: Any, optimizer: Any, steps: range) -> None:
    """Take steps with gradients that depend on the step alone."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = noise.to(parameter.dtype)
        optimizer.step()


def groups_by_name(model: Any, optimizer: Any) -> dict[str, dict[str, Any]]:
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    return {n: found[id(p)] for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("method", METHODS)
def test_norms_and_biases_get_no_weight_decay(method):
    model = build_model()
    groups = groups_by_name(model, build(model, optimizer=method, weight_decay=0.1))
    assert len(groups) == len(list(model.parameters()))
    for name, group in groups.items():
        plain = "norm" in name or name.endswith("bias")
        assert group["weight_decay"] == (0.0 if plain else 0.1), name


def test_muon_gets_the_matrices_of_the_layers_and_adamw_the_others():
    model = build_model()
    optimizer = build(model, optimizer="muon", momentum=0.9, beta2=0.95, epsilon=1e-6)
    for name, group in groups_by_name(model, optimizer).items():
        matrix = ".layers." in name and "norm" not in name and not name.endswith("bias")
        assert ("ns_steps" in group) == matrix, name
        if matrix:
            assert (group["momentum"], group["adjust_lr_fn"]) == (0.9, "match_rms_adamw")
        else:
            assert (group["betas"], group["eps"]) == ((0.9, 0.95), 1e-6)


def test_muon_makes_orthogonal_updates_as_large_as_adamws():
    model = build_model()
    before = copy.deepcopy(model.state_dict())
    advance(model, build(model, optimizer="muon", learning_rate=0.01), range(1))
    name = "model.layers.0.mlp.up_proj.weight"
    update = (before[name] - model.state_dict()[name]) / 0.01
    strengths = torch.linalg.svdvals(update) / (0.2 * math.sqrt(max(update.shape)))
    assert float(strengths.min()) > 0.5  # Newton-Schulz brings them near 1, not to it
    assert float(strengths.max()) < 1.3
    assert 0.1 < float(update.square().mean().sqrt()) < 0.3
    name = "model.embed_tokens.weight"  # AdamW's first update is the sign of the gradient
    update = (before[name] - model.state_dict()[name]) / 0.01
    assert torch.allclose(update.abs(), torch.ones_like(update), atol=1e-3)


def test_eight_bits_are_kept_of_all_but_embeddings_and_small_weights():
    model = build_model()
    optimizer = build(model, optimizer="adamw_8bit")
    advance(model, optimizer, range(1))
    kept = {n: optimizer.state[p] for n, p in model.named_parameters()}
    assert kept["model.layers.0.mlp.up_proj.weight"]["state1"].dtype == torch.uint8
    assert kept["lm_head.weight"]["state1"].dtype == torch.uint8
    assert kept["model.embed_tokens.weight"]["exp_avg"].dtype == torch.float32
    assert kept["model.norm.weight"]["state1"].dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_interrupted_and_resumed_is_unbroken(method, dtype):
    settings = {"optimizer": method, "learning_rate": 1e-3, "weight_decay": 0.1}
    unbroken = build_model(dtype)
    advance(unbroken, build(unbroken, **settings), range(6))

    model = build_model(dtype)
    optimizer = build(model, **settings)
    advance(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)  # plain tensors and numbers, no pickled objects
    resumed = build_model(dtype)
    resumed.load_state_dict(saved["model"])
    optimizer = build(resumed, **settings)
    optimizer.load_state_dict(saved["optimizer"])
    advance(resumed, optimizer, range(3, 6))
    for name, weight in resumed.state_dict().items():
        assert torch.equal(weight, unbroken.state_dict()[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_the_plan_knows_what_each_method_keeps(method):
    model = build_model()
    optimizer = build(model, optimizer=method)
    advance(model, optimizer, range(1))
    found = sum(
        value.nbytes
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and name not in ("step", "qmap1", "qmap2", "RMS")
    )
    counted = weigh_state(model, recipe_for({"optimizer": method}).stages[0])
    scales = 0.05 * counted if method == "adamw_8bit" else 0  # of its blocks, not counted
    assert counted <= found <= counted + scales


@pytest.mark.parametrize("method", METHODS)
def test_a_schedule_reaches_every_group(method):
    model = build_model()
    before = copy.deepcopy(model.state_dict())
    optimizer = build(model, optimizer=method, weight_decay=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    advance(model, optimizer, range(1))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_plain_bf16_stalls_where_random_rounding_moves():
    # Weights of 1 are 2**-7 from the next bf16 number up, and AdamW moves by about 1e-4.
    start = torch.ones(400, 4)
    plain = torch.nn.Parameter(start.bfloat16())
    rounded = torch.nn.Linear(4, 400, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(rounded.weight)
    wide = torch.nn.Parameter(start.clone())
    optimizers = [
        torch.optim.AdamW([plain], lr=1e-4, weight_decay=0, fused=True),
        build(rounded, learning_rate=1e-4),
        torch.optim.AdamW([wide], lr=1e-4, weight_decay=0, fused=True),
    ]
    for _ in range(20):
        for parameter, optimizer in zip((plain, rounded.weight, wide), optimizers, strict=True):
            parameter.grad = torch.full_like(parameter, -1.0)
            optimizer.step()
    assert torch.equal(plain, start.bfloat16())
    moved = float((rounded.weight.detach().float() - 1).mean())
    expected = float((wide.detach() - 1).mean())
    assert expected == pytest.approx(20e-4, rel=1e-2)
    error = 2**-7 * math.sqrt(0.25 / start.numel())  # of the mean, if one rounding did it all
    assert moved == pytest.approx(expected, abs=5 * error)


def test_what_is_remembered_of_a_bf16_weight_is_fp32():
    model = build_model(torch.bfloat16)
    optimizer = build(model)
    assert isinstance(optimizer, PartedOptimizer)
    advance(model, optimizer, range(1))
    for state in optimizer.state.values():
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_fp32_weights_beside_bf16_ones_are_not_rounded():
    head = torch.nn.Linear(3, 3)
    body = torch.nn.Linear(3, 3).bfloat16()
    model = torch.nn.Sequential(body, head)
    alone = copy.deepcopy(head)
    advance(model, build(model), range(3))
    # The same gradients again: drawn for the body first.
    reference = torch.optim.AdamW(alone.parameters(), lr=2e-5, weight_decay=0, fused=True)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for parameter in body.parameters():
            torch.randn(parameter.shape, generator=generator)
        for parameter in alone.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        reference.step()
    assert torch.equal(head.weight, alone.weight)


def test_the_seed_says_how_bf16_weights_are_rounded():
    ends = []
    for seed in (0, 0, 1):
        model = build_model(torch.bfloat16)
        advance(model, build(model, recipe={"seed": seed}), range(2))
        ends.append(model.lm_head.weight.detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_lora_plus_gives_the_matrices_b_a_rate_of_their_own():
    model = add_lora(build_model(), LoraConfig(rank=2))
    changes = {"tuning": "lora", "lora": {"plus_ratio": 16}}
    groups = groups_by_name(model, build(model, recipe=changes, learning_rate=1e-4))
    rates = {".lora_B." in name: group["lr"] for name, group in groups.items()}
    assert rates == {False: 1e-4, True: pytest.approx(16e-4)}


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ({"optimizer": "adafactor", "beta1": 0.8}, {}, "`beta1` is of adamw"),
        ({"optimizer": "adamw", "momentum": 0.8}, {}, "`momentum` is of muon"),
        ({"warmup": 0.1, "warmup_steps": 3}, {}, "either `warmup` or `warmup_steps`"),
        ({"optimizer": "muon"}, {"parallel": {"strategy": "zero2"}}, "needs whole matrices"),
        ({}, {"compute": {"weights": "bf16", "precision": "fp32"}}, "cannot be multiplied"),
        ({}, {"compute": {"weights": "bf16"}, "tuning": "lora"}, "is of `tuning: full`"),
        ({}, {"compute": {"precision": "fp16"}}, "it needs the loss scaled"),
    ],
)
def test_settings_that_would_do_nothing_or_harm_are_refused(stage, changes, message):
    with pytest.raises(ConfigError, match=message):
        recipe_for(stage, **changes)


def test_a_stage_is_checked_before_it_is_begun():
    settings = {"schedule": "polynomial", "schedule_options": {"lr_end": 0.5}}
    (stage,) = recipe_for(settings).stages
    with pytest.raises(ConfigError, match="lr_end"):
        check_optimizer(stage, 10)
