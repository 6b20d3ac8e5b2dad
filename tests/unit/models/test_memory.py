from transformers import GPT2Config, Qwen3Config

from posttrain.models.memory import WeightBytes, estimate_memory, weigh_cache

STEP = {"activations": 5, "head": 6, "gradients": 7, "allocator": 8}


def test_the_parts_are_the_known_multiples_of_the_parameters():
    found = estimate_memory(
        total_parameters=100, trainable_parameters=40, held=WeightBytes(frozen=0.5), step=STEP
    )
    assert (found.weights, found.optimizer) == (190, 320)
    assert (found.gradients, found.activations, found.head, found.allocator) == (7, 5, 6, 8)
    assert found.total == 190 + 320 + 26 + found.process


def test_keys_and_values_of_every_layer_are_counted_and_one_more():
    config = Qwen3Config(num_hidden_layers=3, num_key_value_heads=2, head_dim=16, vocab_size=100)
    assert weigh_cache(config, 5, 7) == 4 * (2 * 5 * 7 * 2 * 16 * 4 + 4 * 5 * 100)
    assert weigh_cache(GPT2Config(), 1, 10) > 4 * 2 * 10 * 768 * 12
