"""Operations of a batch, against figures worked out by hand."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    ModernBertConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from posttrain.config.model import LoraConfig
from posttrain.layout import NO_PARENT, SegmentTable
from posttrain.models.flops import count_flops, count_pairs
from posttrain.models.lora import add_lora

QWEN3_06B = Qwen3Config(
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151_936,
    tie_word_embeddings=True,
)
# Per layer: queries and output 1024 x 2048 each, keys and values 1024 x 1024 each, and an MLP of
# three 1024 x 3072; together 15,728,640 weights, 440,401,920 in 28 layers.
LAYERS, HEAD = 440_401_920, 1024 * 151_936


def build(config, auto=AutoModelForCausalLM):
    with torch.device("meta"):
        return auto.from_config(config)


def roots(*lengths, causal=True):
    starts = tuple(int(x) for x in np.cumsum((0, *lengths[:-1])))
    return SegmentTable(starts, lengths, (NO_PARENT,) * len(lengths), causal)


def test_qwen3_06b_in_full():
    flops = count_flops(build(QWEN3_06B))
    assert flops.per_token == 6 * LAYERS
    assert flops.per_scored_token == 6 * HEAD
    # 28 layers of 16 heads of 128 channels: 57,344; 2 operations for each of 6 products.
    assert flops.per_pair == {None: 12 * 57_344}


def test_a_batch_adds_up():
    # Two texts of 3 and 2 tokens: 6 + 3 pairs; 3 targets.
    assert count_flops(build(QWEN3_06B)).of_batch(roots(3, 2), 3) == (
        5 * 6 * LAYERS + 3 * 6 * HEAD + 9 * 12 * 57_344
    )


def test_adapters_save_the_gradients_of_frozen_weights():
    model = add_lora(build(QWEN3_06B), LoraConfig(rank=8))
    flops = count_flops(model)
    # Rank 8: (1024 + 2048) * 2 + (1024 + 1024) * 2 + (1024 + 3072) * 3 sides, 22,528 a layer.
    adapters = 28 * 8 * 22_528
    assert flops.per_token == 4 * LAYERS + 6 * adapters
    assert flops.per_scored_token == 4 * HEAD


def test_of_a_mixture_only_the_chosen_experts_count():
    config = Qwen3MoeConfig(
        hidden_size=16,
        moe_intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        vocab_size=50,
    )
    attention = 16 * 16 * 2 + 16 * 8 * 2
    assert count_flops(build(config)).per_token == 6 * (attention + 2 * 3 * 16 * 8)


def test_an_encoder_counts_its_window_and_the_head_for_masked_tokens_only():
    config = ModernBertConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        local_attention=8,
        global_attn_every_n_layers=3,
        pad_token_id=0,
    )
    flops = count_flops(build(config, AutoModelForMaskedLM))
    # Queries, keys and values 16 x 48, output 16 x 16, the gated MLP 16 x 48 and 24 x 16.
    assert flops.per_token == 6 * 3 * (16 * 48 + 16 * 16 + 16 * 48 + 24 * 16)
    assert flops.per_scored_token == 6 * (16 * 16 + 16 * 60)
    assert flops.per_pair == {None: 12 * 16, 5: 2 * 12 * 16}  # 4 tokens to either side


def pairs_by_hand(table, window):
    seen = 0
    for segment, length in enumerate(table.lengths):
        before = sum(table.lengths[a] for a in table.ancestors(segment))
        for i in range(length):
            if table.causal:
                seen += before + i + 1
            else:
                seen += sum(window is None or abs(i - j) < window for j in range(length))
    return seen


@pytest.mark.parametrize(
    ("table", "window"),
    [
        (roots(7, 1, 4), None),
        (SegmentTable((0, 5, 8), (5, 3, 2), (NO_PARENT, 0, 1)), None),
        (SegmentTable((0, 5, 8), (5, 3, 2), (NO_PARENT, 0, 0)), None),
        (roots(7, 1, 4, causal=False), None),
        (roots(9, 2, 5, causal=False), 3),
        (roots(9, 2, 5, causal=False), 1),
    ],
)
def test_pairs_equal_those_counted_one_by_one(table, window):
    assert count_pairs(table, window) == pairs_by_hand(table, window)
