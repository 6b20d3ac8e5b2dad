import random

import numpy as np
import pytest
import torch

from posttrain.config.model import ModelConfig
from posttrain.models.attention import register_attention
from posttrain.models.load import load_model
from posttrain.models.packed import prepare_packed
from posttrain.training.lending import lend


@pytest.fixture
def model(cache_dir):
    register_attention()
    found = load_model(
        ModelConfig(path="tiny"),
        attention="posttrain_sdpa",
        dtype="float32",
        prepare=prepare_packed,
    )
    return found.train()


def test_every_module_comes_back_in_the_mode_it_was_in(model):
    model.model.layers[0].eval()  # as a part may be that somebody has frozen
    before = [module.training for module in model.modules()]
    with lend(model, writing=True):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("writing", [True, False])
def test_attention_is_plain_for_writing_alone(model, writing):
    with lend(model, writing=writing):
        assert (model.config._attn_implementation == "sdpa") == writing
        assert not torch.is_grad_enabled()
    assert model.config._attn_implementation == "posttrain_sdpa"
    assert torch.is_grad_enabled()


def test_random_numbers_go_on_as_if_nothing_had_been_drawn(model):
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seed():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = draw()
    seed()
    with lend(model, writing=False):
        draw()
    assert draw() == expected


def test_a_mistake_inside_leaves_nothing_behind(model):
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), lend(model, writing=True):
        torch.rand(2) @ torch.rand(3)
    assert model.training
    assert model.config._attn_implementation == "posttrain_sdpa"
    assert torch.equal(torch.get_rng_state(), state)
