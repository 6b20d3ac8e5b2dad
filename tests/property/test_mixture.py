"""Mixtures: totals, no early repeats, and even proportions in every part of an epoch."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.mixture import SourceShare, interleave, plan_draws

SIZES = st.lists(st.integers(0, 200), min_size=1, max_size=6)


def shares_of(count):
    share = st.builds(
        SourceShare, weight=st.floats(0, 100), max_rows=st.none() | st.integers(0, 99)
    )
    return st.lists(share, min_size=count, max_size=count)


WEIGHTED = SIZES.flatmap(lambda sizes: st.tuples(st.just(sizes), shares_of(len(sizes))))
DRAWN = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 90)), min_size=1, max_size=7).map(
    lambda pairs: tuple(map(list, zip(*pairs, strict=True)))
)


@settings(max_examples=200, deadline=None)
@given(WEIGHTED)
def test_weights_keep_the_total_and_the_proportions(case):
    sizes, shares = case
    draws = plan_draws(sizes, shares)
    caps = [s.max_rows if s.max_rows is not None else np.inf for s in shares]
    used = [min(n, cap) for n, cap in zip(sizes, caps, strict=True)]
    taking = [i for i, n in enumerate(used) if n and shares[i].weight]

    assert all(draw <= cap for draw, cap in zip(draws, caps, strict=True))
    assert all(draws[i] == 0 for i in range(len(sizes)) if i not in taking)
    full = all(draws[i] == caps[i] for i in taking)
    assert sum(draws) == sum(used) or (full and sum(draws) < sum(used))
    # Of those that are not full, each is within one of its share.
    free = [i for i in taking if draws[i] < caps[i]]
    whole = sum(shares[i].weight for i in free)
    total = sum(draws[i] for i in free)
    for i in free:
        assert abs(draws[i] - total * (shares[i].weight / whole)) <= len(free)


@settings(max_examples=100, deadline=None)
@given(SIZES, st.floats(0.1, 50))
def test_a_temperature_keeps_the_total_and_the_order_of_sizes(sizes, temperature):
    draws = plan_draws(sizes, [SourceShare()] * len(sizes), temperature)

    assert sum(draws) == sum(sizes)
    by_size = [draw for _, draw in sorted(zip(sizes, draws, strict=True))]
    assert all(b >= a - 1 for a, b in pairwise(by_size))


@settings(max_examples=200, deadline=None)
@given(DRAWN, st.integers(0, 3), st.integers(0, 5))
def test_every_source_gives_its_draws_and_none_comes_again_too_early(case, seed, epoch):
    sizes, draws = case
    first = np.cumsum([0, *sizes])
    epochs = [interleave(sizes, draws, seed=seed, epoch=number) for number in range(epoch + 1)]

    for source, (size, drawn) in enumerate(zip(sizes, draws, strict=True)):
        taken = [e[(e >= first[source]) & (e < first[source + 1])] for e in epochs]
        assert all(len(part) == drawn for part in taken)
        order = np.concatenate(taken)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            assert len(set(part.tolist())) == len(part)


@settings(max_examples=300, deadline=None)
@given(DRAWN)
def test_the_beginning_of_an_epoch_has_every_source_in_its_proportion(case):
    sizes, draws = case
    order = interleave(sizes, draws, seed=0)
    source = np.searchsorted(np.cumsum(sizes), order, "right")
    length = np.arange(1, len(order) + 1)

    most = 0.5 if sum(drawn > 0 for drawn in draws) <= 2 else 1.7
    for number, drawn in enumerate(draws):
        found = np.cumsum(source == number)
        assert np.abs(found - length * drawn / max(1, len(order))).max(initial=0) <= most + 1e-9
