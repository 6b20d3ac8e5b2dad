import math

import peft
import pytest
import torch

from posttrain.errors import NonFiniteError, VerificationError
from posttrain.training.guards.gradients import (
    check_adapters_moved,
    check_gradients,
    check_norm,
    check_reached,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


@pytest.fixture
def adapted(model):
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0", "1"]))


def learn(model):
    model.zero_grad()
    model(torch.ones(1, 3)).square().sum().backward()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_named_with_the_rows(model, poison):
    learn(model)
    model[1].bias.grad[0] = poison
    with pytest.raises(NonFiniteError, match=r"step 5: the gradient of 1\.bias and 0 oth") as error:
        check_gradients(model, 4, rows=lambda: ["a.jsonl:7", "a.jsonl:9"])
    assert "(2 rows, such as a.jsonl:7, a.jsonl:9)" in str(error.value)


def test_a_norm_that_is_not_finite_is_refused():
    check_norm(torch.tensor(3.0), 4)
    with pytest.raises(NonFiniteError, match="step 5: the norm of the gradient is inf"):
        check_norm(torch.tensor(math.inf), 4)


def test_missing_gradients_are_refused_at_any_step(model):
    with pytest.raises(VerificationError, match="step 8: no trainable parameter received"):
        check_gradients(model, 7)


def test_zero_gradients_are_refused_in_the_first_step_only(model):
    (model(torch.ones(1, 3)).sum() * 0).backward()
    with pytest.raises(VerificationError, match="every gradient is 0"):
        check_gradients(model, 0)
    check_gradients(model, 1)


def test_a_detached_head_is_named(model):
    learn(model)
    check_reached(model, 0)
    model.zero_grad()
    (model[0](torch.ones(1, 3)).sum() + model[1](torch.ones(1, 4)).detach().sum()).backward()
    with pytest.raises(VerificationError, match=r"step 1: 1\.weight and 1 other trainable wei"):
        check_reached(model, 0)
    check_reached(model, 0, ["1."])


def test_a_gradient_that_is_there_and_all_0_is_none(model):
    learn(model)
    model[0].bias.grad.zero_()
    with pytest.raises(VerificationError, match=r"step 2: 0\.bias and 0 other"):
        check_reached(model, 1)


def test_frozen_weights_need_no_gradient(model):
    model[0].requires_grad_(False)
    learn(model)
    check_reached(model, 0)


def test_the_first_matrix_of_an_adapter_may_wait_for_the_second_one(adapted):
    learn(adapted)
    assert not adapted.base_model.model[0].lora_A["default"].weight.grad.any()
    check_reached(adapted, 0)
    with torch.no_grad():
        for layer in adapted.base_model.model:
            layer.lora_B["default"].weight += 1
    adapted.zero_grad()
    adapted.base_model.model[1].lora_B["default"].weight.sum().backward()
    with pytest.raises(VerificationError, match=r"0\.lora_A\.default\.weight and 2 other"):
        check_reached(adapted, 1)


def test_of_embeddings_it_is_the_first_matrix_that_begins_at_0():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 2))
    model = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["0"]))
    model(torch.tensor([1, 3])).square().sum().backward()
    check_reached(model, 0)
    with pytest.raises(
        VerificationError, match=r"lora_embedding_A\.default and 0 others are still"
    ):
        check_adapters_moved(model, 2)
    with torch.no_grad():
        model.base_model.model[0].lora_embedding_A["default"][0, 0] = 1e-6
    check_adapters_moved(model, 2)
    with pytest.raises(VerificationError, match=r"lora_embedding_B\.default and 0 other"):
        check_reached(model, 1)  # its partner is no longer 0


def test_adapters_that_do_not_move_are_named(adapted):
    with pytest.raises(VerificationError, match=r"step 2: the adapter weight .*lora_B.* and 1 oth"):
        check_adapters_moved(adapted, 2)
    with torch.no_grad():
        for layer in adapted.base_model.model:
            layer.lora_B["default"].weight[0, 0] = 1e-6
    check_adapters_moved(adapted, 2)


def test_adapters_that_may_go_without_a_gradient_need_not_move(adapted):
    check_adapters_moved(adapted, 2, ["model.0.", "model.1."])
    with pytest.raises(VerificationError, match=r"model\.1\.lora_B.* and 0 others"):
        check_adapters_moved(adapted, 2, ["model.0."])


def test_what_adds_the_same_to_both_rewards_of_a_pair_learns_nothing():
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.ln_f, model.score = torch.nn.LayerNorm(4), torch.nn.Linear(4, 1, bias=False)
    rewards = model.score(model.ln_f(torch.randn(2, 4)))
    torch.nn.functional.softplus(rewards[1] - rewards[0]).sum().backward()
    assert not model.ln_f.bias.grad.any()
    check_reached(model, 0)
    model.ln_f.weight.grad.zero_()
    with pytest.raises(VerificationError, match=r"ln_f\.weight and 0 other"):
        check_reached(model, 0)


@pytest.mark.parametrize(
    "name", ["layers.0.mlp.experts.3.up_proj", "layers.0.k_proj", "value_head", "router"]
)
def test_what_may_rightly_have_no_gradient_is_let_pass(name):
    model = torch.nn.Module()
    place = model
    *folders, last = name.split(".")
    for part in folders:
        place.add_module(part, torch.nn.Module())
        place = getattr(place, part)
    place.add_module(last, torch.nn.Linear(2, 2))
    model.add_module("other", torch.nn.Linear(2, 2))
    model.other(torch.ones(1, 2)).sum().backward()
    if last == "k_proj":
        place.k_proj.weight.grad = torch.ones(2, 2)
    if last == "router":
        model.router = None
        model.add_module("mlp", torch.nn.Module())
        model.mlp.add_module("router", torch.nn.Linear(2, 2))
    check_reached(model, 0)
