import random

import pytest

from posttrain.config.guards import LossSpikeConfig
from posttrain.training.guards.spikes import SpikeWatch


def noisy(count: int, seed: int = 0) -> list[float]:
    drawn = random.Random(seed)
    return [2.0 + drawn.gauss(0, 0.1) for _ in range(count)]


def test_noise_is_no_spike_and_a_jump_is():
    watch = SpikeWatch(LossSpikeConfig())
    assert [watch.look(loss) for loss in noisy(500)] == [None] * 500
    found = watch.look(6.0)
    assert found.startswith("the loss is 6, ")
    assert "the median of the last 64" in found


def test_several_in_a_row_count_once_and_a_new_level_gets_usual():
    watch = SpikeWatch(LossSpikeConfig(window=16))
    for loss in noisy(40):
        watch.look(loss)
    assert [bool(watch.look(9.0)) for _ in range(30)] == [True] + [False] * 29
    assert watch.look(9.0) is None
    assert watch.look(90.0)


def test_the_first_steps_and_a_falling_loss_are_none():
    watch = SpikeWatch(LossSpikeConfig())
    assert [watch.look(loss) for loss in (1.0, 50.0, 2.0, 60.0)] == [None] * 4
    falling = [10 * 0.97**step for step in range(200)]
    assert [watch.look(loss) for loss in falling] == [None] * 200


def test_equal_losses_have_a_spread_all_the_same():
    watch = SpikeWatch(LossSpikeConfig(factor=10))
    for _ in range(20):
        watch.look(1.0)
    assert watch.look(1.19) is None
    assert watch.look(1.21)


def test_losses_around_0_and_of_rounds_without_signal_are_none():
    drawn = random.Random(0)
    watch = SpikeWatch(LossSpikeConfig())
    tiny = [drawn.gauss(0, 1e-9) for _ in range(40)]
    assert [watch.look(loss) for loss in [*tiny, 0.05, *tiny, 0.09]] == [None] * 82
    assert watch.look(0.2)
    for _ in range(100):
        assert watch.look(0.0) is None  # nor does it become what is usual
    rounds = SpikeWatch(LossSpikeConfig())
    wide = [drawn.gauss(0, 0.1) for _ in range(40)]
    losses = [value for loss in wide for value in (0.0, 0.0, loss)]
    assert [rounds.look(loss) for loss in losses] == [None] * 120


@pytest.mark.parametrize("cut", [10, 40])
def test_a_resumed_watch_sees_the_same(cut):
    losses = [*noisy(50), 5.0, 5.0, *noisy(20, 1), 5.0]
    whole = SpikeWatch(LossSpikeConfig(window=32))
    expected = [whole.look(loss) for loss in losses]
    first, second = SpikeWatch(LossSpikeConfig(window=32)), SpikeWatch(LossSpikeConfig(window=32))
    found = [first.look(loss) for loss in losses[:cut]]
    second.load(first.save())
    assert found + [second.look(loss) for loss in losses[cut:]] == expected
    assert sum(entry is not None for entry in expected) == 2
