import numpy as np
import pytest
import torch

from posttrain.layout import SegmentTable
from posttrain.models.attention import tile_kernels, tile_plan
from posttrain.models.attention.dense import dense_mask
from posttrain.models.attention.tile_plan import plan_tiles
from posttrain.models.attention.tiles import attend_tiles

# A prompt with two answers, the second with two of its own; short loners; a long one.
TREE = ((-1, 37), (0, 5), (0, 9), (2, 4), (2, 30), (-1, 3), (-1, 4), (-1, 4), (-1, 210), (8, 1))


def make_table(segments, *, causal=True):
    lengths = tuple(length for _, length in segments)
    starts = tuple(int(x) for x in np.cumsum((0, *lengths[:-1])))
    return SegmentTable(starts, lengths, tuple(parent for parent, _ in segments), causal)


def drawn_mask(plan, total):
    """Who sees whom, by the plan; each pair must be in it once."""
    seen = torch.zeros(total, total, dtype=torch.long)
    for group in plan.groups:
        for row in group.laid.view(group.count, -1):
            first, last = int(row.min()), int(row.max()) + 1
            seen[first:last, first:last] += 1
            seen[first:last, first:last].tril_()
    for tile in plan.tiles:
        part = torch.ones_like(seen[tile.queries, tile.keys])
        seen[tile.queries, tile.keys] += part.tril() if tile.causal else part
    return seen


def make_inputs(total, heads=4, key_heads=2, size=8, dtype=torch.float32):
    torch.manual_seed(0)
    shapes = [(1, total, h, size) for h in (heads, key_heads, key_heads)]
    # As models hand them over: heads of a token side by side in memory.
    return [torch.randn(s, dtype=dtype).transpose(1, 2).requires_grad_() for s in shapes]


def attend_naively(query, key, value, table, scale):
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~dense_mask(table), -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("causal", [True, False])
def test_tiles_draw_the_rule_each_pair_once(causal):
    segments = TREE if causal else [(-1, length) for _, length in TREE]
    table = make_table(segments, causal=causal)
    drawn = drawn_mask(plan_tiles(table), table.total_tokens)
    assert torch.equal(drawn, dense_mask(table).long())


def test_a_prompt_and_its_first_answer_are_one_range_and_siblings_see_their_prompt_together():
    plan = plan_tiles(make_table([(-1, 200), (0, 100), (0, 110), (0, 120)]))
    ranges = [(t.queries.start, t.queries.stop, t.keys.start, t.keys.stop) for t in plan.tiles]
    assert ranges == [
        (0, 300, 0, 300),
        (300, 410, 300, 410),
        (410, 530, 410, 530),
        (300, 530, 0, 200),
    ]
    assert not plan.groups


def test_short_ranges_share_calls_with_little_padding():
    lengths = [*range(5, 60), 300]
    plan = plan_tiles(make_table([(-1, length) for length in lengths]))
    assert len(plan.tiles) + len(plan.groups) < 15
    laid = sum(len(group.laid) for group in plan.groups)
    assert laid <= 1.25 * sum(len(group.tokens) for group in plan.groups)
    assert [t.queries.stop - t.queries.start for t in plan.tiles][-1] == 300


@pytest.mark.parametrize("kernel", ["flash", "products"])
@pytest.mark.parametrize("causal", [True, False])
def test_output_and_gradients_equal_dense_attention(kernel, causal, monkeypatch):
    chosen = (range(0), 0) if kernel == "flash" else (range(10_000), 16)
    monkeypatch.setitem(tile_kernels._PRODUCTS, torch.float32, chosen)
    segments = TREE if causal else [(-1, length) for _, length in TREE]
    table = make_table(segments, causal=causal)
    inputs = make_inputs(table.total_tokens)
    found = attend_tiles(*inputs, plan_tiles(table), 0.3)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = attend_naively(*exact, table, 0.3)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(expected)
    given = torch.autograd.grad(found, inputs, upstream.float())
    wanted = torch.autograd.grad(expected, exact, upstream)
    for ours, theirs in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=2e-5)


def test_the_kernels_in_use_agree_at_a_length_of_each():
    for length in (150, 700):
        table = make_table([(-1, length)])
        inputs = make_inputs(length)
        found = attend_tiles(*inputs, plan_tiles(table), 0.3)
        given = torch.autograd.grad(found.square().sum(), inputs)
        expected = attend_naively(*inputs, table, 0.3)
        wanted = torch.autograd.grad(expected.square().sum(), inputs)
        for ours, theirs in zip(given, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_under_autocast_it_computes_in_bf16_as_close_as_torch_does():
    table = make_table(TREE)
    inputs = make_inputs(table.total_tokens)
    exact = attend_naively(*inputs, table, 0.3)
    wanted = torch.autograd.grad(exact.square().sum(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend_tiles(*inputs, plan_tiles(table), 0.3)
    assert found.dtype == torch.bfloat16
    given = torch.autograd.grad(found.float().square().sum(), inputs)
    for ours, theirs in zip(given, wanted, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_nothing_as_large_as_all_pairs_of_a_long_range_is_made(monkeypatch):
    """Blocks of queries bound what products make."""
    monkeypatch.setitem(tile_kernels._PRODUCTS, torch.float32, (range(10_000), 16))
    seen = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *a: seen.append(bmm(*a)) or seen[-1])
    table = make_table([(-1, 300)])
    inputs = make_inputs(300)
    attend_tiles(*inputs, plan_tiles(table), 0.3).sum().backward()
    assert 0 < max(x.numel() for x in seen) <= 16 * 300 * 4


def test_padding_in_a_group_gets_and_gives_nothing(monkeypatch):
    """Filling repeats a token: its gradient must not count twice."""
    monkeypatch.setattr(tile_plan, "_PADDING_ALLOWED", 10.0)
    table = make_table([(-1, 1), (-1, 9), (-1, 2)])
    plan = plan_tiles(table)
    assert [group.count for group in plan.groups] == [3]
    assert len(plan.groups[0].filling) == 3 * 9 - 12
    inputs = make_inputs(12)
    given = torch.autograd.grad(attend_tiles(*inputs, plan, 0.3).square().sum(), inputs)
    wanted = torch.autograd.grad(attend_naively(*inputs, table, 0.3).square().sum(), inputs)
    for ours, theirs in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
