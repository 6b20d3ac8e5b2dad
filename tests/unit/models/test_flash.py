"""Sequences handed to FlashAttention, solved by its rule in plain torch, equal the reference."""

import pytest
import torch

from posttrain.models.attention import register_attention
from posttrain.models.attention.dense import attend_dense
from posttrain.models.attention.flash import FlashKernel, attend_varlen, plan_varlen
from posttrain.models.attention.problems import PROBLEMS, draw


def solve_by_definition(query, key, value, call):
    """FlashAttention's documented rule: query i of a sequence sees key j while
    i + L - Q - left <= j <= i + L - Q + right, L and Q the lengths of keys and queries."""
    plan, outputs = call.plan, []
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    for n in range(len(plan.query_ends) - 1):
        own = query[plan.query_ends[n] : plan.query_ends[n + 1]].transpose(0, 1)
        keys = key[plan.key_ends[n] : plan.key_ends[n + 1]].transpose(0, 1)
        values = value[plan.key_ends[n] : plan.key_ends[n + 1]].transpose(0, 1)
        place = torch.arange(own.shape[1])[:, None] + keys.shape[1] - own.shape[1]
        distance = torch.arange(keys.shape[1]) - place
        left, right = call.window
        seen = torch.ones_like(distance, dtype=torch.bool)
        if call.causal:
            seen &= distance <= 0
        if left >= 0:
            seen &= distance >= -left
        if right >= 0:
            seen &= distance <= right
        assert own.shape[1] <= plan.longest_query
        assert keys.shape[1] <= plan.longest_key
        scores = own @ keys.transpose(1, 2) * call.scale
        if call.softcap:
            scores = call.softcap * torch.tanh(scores / call.softcap)
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        outputs.append((weights @ values).transpose(0, 1))
    return torch.cat(outputs)


BY_DEFINITION = FlashKernel("definition", solve_by_definition, softcap=True, dropout=False)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("problem", PROBLEMS[:-1], ids=lambda problem: problem.name)
def test_planned_sequences_give_what_the_reference_gives(problem, softcap):
    register_attention()
    inputs, weight = draw(problem, device="cpu", dtype=torch.float32)
    options = {"sliding_window": problem.window, "softcap": softcap}
    layer = torch.nn.Module()
    found = attend_varlen(BY_DEFINITION, layer, inputs, {"segments": problem.table(), **options})
    expected, _ = attend_dense(layer, *inputs, None, segments=problem.table(), **options)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for gradient, right in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        assert (gradient - right).norm() < 1e-5 * right.norm()


def test_a_flat_batch_gathers_nothing():
    plan = plan_varlen(PROBLEMS[0].table())
    assert plan.keys is None
    assert torch.equal(plan.query_ends, plan.key_ends)


def test_a_trees_keys_are_ancestors_then_own():
    tree = PROBLEMS[1].table()
    plan = plan_varlen(tree)
    assert plan.query_ends.dtype == plan.key_ends.dtype == torch.int32
    assert plan.query_ends.tolist() == [0, 40, 72, 80, 128, 133, 333]
    assert plan.key_ends.tolist() == [0, 40, 112, 160, 208, 261, 509]
    grandchild = plan.keys[208:261].tolist()
    assert grandchild == [*range(40), *range(72, 80), *range(128, 133)]


def test_inputs_of_mixed_formats_are_brought_to_that_of_autocast():
    seen = []

    def note(query, key, value, call):
        seen.append({query.dtype, key.dtype, value.dtype})
        return query

    problem = PROBLEMS[1]
    inputs, _ = draw(problem, device="cpu", dtype=torch.float32)
    mixed = (*inputs[:2], inputs[2].bfloat16())
    kernel = FlashKernel("note", note, softcap=False, dropout=False)
    with torch.autocast("cpu", torch.bfloat16):
        attend_varlen(kernel, torch.nn.Module(), mixed, {"segments": problem.table()})
    assert seen == [{torch.bfloat16}]
