"""MFU from operations worked out by hand."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from posttrain.devices import Peak
from posttrain.layout import NO_PARENT, SegmentTable
from posttrain.training.gauges import Gauges


@pytest.fixture
def gauges():
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return Gauges(Qwen3ForCausalLM(config), Peak(1e6, "for the test"))


def batch(*lengths, scored=2, **more):
    starts = tuple(sum(lengths[:i]) for i in range(len(lengths)))
    table = SegmentTable(starts, lengths, (NO_PARENT,) * len(lengths))
    return {"segments": table, "score_positions": torch.zeros(scored), **more}


# Queries and output 16 x 16, keys and values 16 x 8, an MLP of three 16 x 24: 1,920 weights.
TOKEN, SCORED, PAIR = 6 * 1_920, 6 * 16 * 50, 12 * 16


def test_share_of_the_peak_since_the_last_reading(gauges):
    gauges.count([batch(3), batch(2, 1)])
    done = 6 * TOKEN + 4 * SCORED + (6 + 3 + 1) * PAIR
    assert gauges.read(2.0)["mfu"] == pytest.approx(done / 2.0 / 1e6)
    gauges.count([batch(1)])
    assert gauges.read(0.5)["mfu"] == pytest.approx((TOKEN + 2 * SCORED + PAIR) / 0.5 / 1e6)


def test_a_batch_without_weight_is_not_useful(gauges):
    gauges.count([batch(3, weightless=True)])
    assert gauges.read(1.0)["mfu"] == 0


def test_memory_is_in_the_line(gauges):
    assert gauges.read(1.0)["memory_bytes"] > 50 * 2**20
