"""Stochastic rounding: unbiased, exact where it can be, the same for the same place."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.training.rounding import build_generator, round_stochastically

CPU = torch.device("cpu")
ROUNDINGS = 20_000


@pytest.mark.parametrize("value", [1.0 + 2**-9, -3.1415927, 1e-20, 0.9999, 65535.9])
def test_the_mean_over_many_roundings_is_the_value(value):
    wide = torch.full((ROUNDINGS,), value)
    rounded = round_stochastically(wide, build_generator(CPU, 1, 2, 3)).double()
    found = sorted(set(rounded.tolist()))
    assert len(found) == 2
    low, high = found
    exact = float(wide[0].double())
    assert low < exact < high
    # The share of the upper neighbour is binomial; 5 standard errors.
    share = (exact - low) / (high - low)
    error = (high - low) * (share * (1 - share) / ROUNDINGS) ** 0.5
    assert abs(float(rounded.mean()) - exact) < 5 * error


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**15), 2**15 - 1), st.integers(0, 2**32))
def test_what_bf16_can_hold_is_never_changed(bits, seed):
    narrow = torch.tensor([bits], dtype=torch.int16).view(torch.bfloat16)
    rounded = round_stochastically(narrow.float(), build_generator(CPU, seed))
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded.isnan(), narrow.isnan())
    if not narrow.isnan().any():
        assert torch.equal(rounded, narrow)


@settings(max_examples=200, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(0, 2**32))
def test_a_value_goes_to_one_of_its_neighbours(value, seed):
    wide = torch.tensor([value], dtype=torch.float32)
    (rounded,) = round_stochastically(wide, build_generator(CPU, seed)).float()
    bits = int(wide.view(torch.int32))
    cut = bits & ~0xFFFF
    allowed = torch.tensor([cut, cut + (1 << 16) if bits != cut else cut], dtype=torch.int32)
    assert float(rounded) in allowed.view(torch.float32).tolist()


def test_the_place_alone_says_how_it_is_rounded():
    wide = torch.randn(64, generator=torch.Generator().manual_seed(0))
    first = round_stochastically(wide, build_generator(CPU, 0, 7, 3))
    torch.randn(5)  # what others draw does not matter
    assert torch.equal(first, round_stochastically(wide, build_generator(CPU, 0, 7, 3)))
    for other in ((1, 7, 3), (0, 8, 3), (0, 7, 4)):
        assert not torch.equal(first, round_stochastically(wide, build_generator(CPU, *other)))


def test_it_draws_nothing_from_torchs_own_generator():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    round_stochastically(torch.randn(8, generator=torch.Generator()), build_generator(CPU, 0))
    assert torch.equal(torch.rand(2), expected)
