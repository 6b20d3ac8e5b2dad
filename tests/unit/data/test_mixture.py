import numpy as np
import pytest

from posttrain.data.mixture import SourceShare, interleave, plan_draws

NOTHING = SourceShare()


def weights(*values):
    return [SourceShare(weight=value) for value in values]


@pytest.mark.parametrize(
    ("sizes", "shares", "draws"),
    [
        ([], [], []),
        ([10, 0, 3], [NOTHING] * 3, [10, 0, 3]),
        ([100, 1000], weights(1, 3), [275, 825]),
        ([5, 5], weights(2, 1), [7, 3]),
        ([5, 5, 5], weights(1, 1, 2), [4, 4, 7]),
        ([4, 4], [SourceShare(weight=3), NOTHING], [6, 2]),
        ([10, 0, 10], weights(1, 8, 1), [10, 0, 10]),
        ([10, 10], weights(0, 1), [0, 20]),
        ([10, 20], [SourceShare(epochs=2.5), NOTHING], [25, 20]),
        ([5, 20], [SourceShare(epochs=0.5), SourceShare(epochs=0)], [3, 0]),
        ([100, 20], [SourceShare(max_rows=30), NOTHING], [30, 20]),
        ([100, 20], [SourceShare(max_rows=300), NOTHING], [100, 20]),
        ([100, 20], [SourceShare(epochs=2, max_rows=130), NOTHING], [130, 20]),
        # An epoch of 30 + 20 examples; the first takes no more than 30 of them, however heavy.
        ([100, 20], [SourceShare(weight=9, max_rows=30), SourceShare(weight=1)], [30, 20]),
        # The source with epochs stands by itself; the others share their 60.
        ([10, 30, 30], [SourceShare(epochs=3), *weights(1, 2)], [30, 20, 40]),
        ([40, 10, 10], [SourceShare(epochs=1), *weights(1, 3)], [40, 5, 15]),
    ],
)
def test_draws_follow_weights_epochs_and_most_rows(sizes, shares, draws):
    assert plan_draws(sizes, shares) == draws


@pytest.mark.parametrize(
    ("temperature", "draws"),
    [(1.0, [100, 10000]), (2.0, [918, 9182]), (1e9, [5050, 5050]), (0.01, [0, 10100])],
)
def test_a_higher_temperature_brings_small_sources_forward(temperature, draws):
    assert plan_draws([100, 10000], [NOTHING] * 2, temperature) == draws


def test_what_a_full_source_cannot_take_goes_to_the_others_by_their_weights():
    shares = [SourceShare(weight=8, max_rows=10), *weights(1, 3)]

    # Of 10 + 40 + 40, 10 go to the first and 80 to the others.
    assert plan_draws([50, 40, 40], shares) == [10, 20, 60]


@pytest.mark.parametrize(
    ("shares", "temperature", "message"),
    [
        ([SourceShare(weight=1, epochs=1)], 1.0, "a weight and epochs"),
        ([SourceShare(weight=1)], 2.0, "weights and a temperature"),
        ([SourceShare(weight=-1)], 1.0, "0 or more, not -1"),
        ([SourceShare(epochs=float("inf"))], 1.0, "not inf"),
        ([NOTHING], 0.0, "a temperature is above 0"),
        ([NOTHING], float("nan"), "a temperature is above 0"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(shares, temperature, message):
    with pytest.raises(ValueError, match=message):
        plan_draws([10], shares, temperature)


def test_sources_lie_evenly_among_each_other():
    order = interleave([4, 8], [4, 8], seed=0)

    assert (order < 4).tolist() == [False, True, False] * 4


def test_passes_go_on_from_epoch_to_epoch():
    epochs = [interleave([10], [4], seed=0, epoch=number).tolist() for number in range(5)]
    drawn = [number for epoch in epochs for number in epoch]

    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_repeats_are_whole_passes_each_in_an_order_of_its_own():
    drawn = interleave([6], [15], seed=0).tolist()

    assert sorted(drawn[:6]) == sorted(drawn[6:12]) == list(range(6))
    assert len(set(drawn[12:])) == 3
    assert drawn[:6] != drawn[6:12]


def test_sources_of_equal_size_have_orders_of_their_own():
    order = interleave([50, 50], [50, 50], seed=0)

    assert order[order < 50].tolist() != (order[order >= 50] - 50).tolist()


def test_seed_and_epoch_give_other_orders_and_the_same_ones_again():
    first = interleave([20, 5], [20, 10], seed=0).tolist()

    assert interleave([20, 5], [20, 10], seed=0, epoch=0).tolist() == first
    assert interleave([20, 5], [20, 10], seed=1).tolist() != first
    assert interleave([20, 5], [20, 10], seed=0, epoch=1).tolist() != first


def test_nothing_is_drawn_of_nothing():
    assert interleave([], [], seed=0).tolist() == []
    assert interleave([0, 3], [0, 0], seed=0).tolist() == []
    assert sorted(interleave([0, 3], [0, 3], seed=0)) == [0, 1, 2]
    with pytest.raises(ValueError, match="a source without examples"):
        interleave([0, 3], [1, 3], seed=0)


def test_a_million_examples_are_laid_out_evenly():
    sizes, draws = [600_000, 300_000, 1000], [500_000, 400_000, 99_000]
    order = interleave(sizes, draws, seed=0)

    assert order.dtype == np.int64
    small = np.flatnonzero(order >= 900_000)
    assert len(small) == 99_000
    assert np.diff(small).max() - np.diff(small).min() <= 2
