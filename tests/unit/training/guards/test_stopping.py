import math

import pytest

from posttrain.config.guards import EarlyStoppingConfig
from posttrain.training.guards.stopping import EarlyStopping


def stop_at(values, metric="loss", **settings):
    higher = metric != "loss"
    stopping = EarlyStopping(EarlyStoppingConfig(**settings), metric, higher)
    steps = (step for step, value in enumerate(values, 1) if stopping.look(step, value))
    return next(steps, None), stopping.reason


def test_it_waits_as_long_as_it_is_told():
    course = [3.0, 2.0, 2.5, 2.4, 2.3, 2.2]
    assert stop_at(course, patience=2)[0] == 4
    assert stop_at(course, patience=3)[0] == 5
    assert stop_at(course, patience=5) == (None, "")


def test_the_reason_names_steps_and_figures():
    _, reason = stop_at([3.0, 2.0, 2.5, 2.4], patience=2)
    assert "stopped early after step 4: validation loss has not got better in 2" in reason
    assert "since step 2 (2, now 2.4)" in reason


def test_more_is_better_of_what_is_no_loss():
    assert stop_at([0.1, 0.2, 0.3, 0.4], metric="pair_accuracy", patience=1)[0] is None
    assert stop_at([0.4, 0.3], metric="reward", patience=1)[0] == 2


def test_a_small_gain_is_none():
    assert stop_at([3.0, 2.95, 2.91], patience=2, min_delta=0.1)[0] == 3
    assert stop_at([3.0, 2.95, 2.89], patience=2, min_delta=0.1)[0] is None


def test_what_is_no_number_is_not_better():
    assert stop_at([3.0, math.nan, math.nan], patience=2)[0] == 3


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_resumed_one_stops_at_the_same_step(cut):
    course = [3.0, 2.0, 2.5, 2.4, 2.3]
    config = EarlyStoppingConfig(patience=3)
    first, second = (EarlyStopping(config, "loss", False) for _ in range(2))
    before = [first.look(step, value) for step, value in enumerate(course[:cut], 1)]
    second.load(first.save())
    assert not second.look(cut, 99.0)  # of a step that it has seen
    after = [second.look(step, value) for step, value in enumerate(course[cut:], cut + 1)]
    assert before + after == [False] * 4 + [True]
