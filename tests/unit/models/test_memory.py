import pytest
from transformers import GPT2Config, Qwen3Config

from posttrain.models.memory import WeightBytes, estimate_memory

BASE = {
    "total_parameters": 10**9,
    "trainable_parameters": 10**9,
    "held": WeightBytes(),
    "batch_tokens": 8192,
    "activation_checkpointing": False,
}


def estimate(config=None, **changes):
    return estimate_memory(config or Qwen3Config(), **{**BASE, **changes}).total


@pytest.mark.parametrize("name", ["total_parameters", "trainable_parameters", "batch_tokens"])
def test_more_of_anything_needs_more_memory(name):
    sizes = [estimate(**{name: factor * BASE[name] // 4}) for factor in (1, 2, 3, 4)]
    assert sizes == sorted(set(sizes))


def test_checkpointing_and_adapters_need_less():
    assert estimate(activation_checkpointing=True) < estimate()
    assert estimate(trainable_parameters=10**6) < estimate()


def test_the_parts_are_the_known_multiples_of_the_parameters():
    found = estimate_memory(Qwen3Config(), **BASE)
    assert (found.weights, found.gradients, found.optimizer) == (4e9, 4e9, 8e9)
    assert found.total == sum(getattr(found, n) for n in found.__dataclass_fields__)


def test_what_is_trained_in_bf16_needs_half_and_an_optimizer_what_it_keeps():
    found = estimate_memory(Qwen3Config(), **{**BASE, "held": WeightBytes(trained=2, optimizer=2)})
    assert (found.weights, found.gradients, found.optimizer) == (2e9, 2e9, 2e9)


def test_a_config_without_inner_size_is_estimated_too():
    assert estimate(GPT2Config()) > 16e9
