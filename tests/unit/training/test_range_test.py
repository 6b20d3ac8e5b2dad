"""Learning rates are tried on a model that is thrown away."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from posttrain.training.range_test import HIGHEST, LOWEST, RateCurve, list_rates, run_range_test
from posttrain.training.sft import train_sft


def curve(losses, diverged=False):
    return RateCurve(list(list_rates(len(losses))), losses, diverged)


def test_rates_rise_by_one_factor_from_end_to_end():
    rates = list(list_rates(8))
    assert (rates[0], rates[-1]) == (LOWEST, pytest.approx(HIGHEST))
    assert {round(b / a, 6) for a, b in pairwise(rates)} == {10.0}


def test_a_tenth_of_the_rate_with_the_lowest_loss_or_where_it_fell_fastest():
    falling = [5 - 4 / (1 + math.exp(-(step - 40) / 3)) for step in range(71)]
    losses = [*falling, *(1 + 0.02 * step**2 for step in range(30))]
    found, reason = curve(losses, diverged=True).suggest()
    fastest = LOWEST * (HIGHEST / LOWEST) ** (40 / 100)
    assert found == pytest.approx(fastest, rel=0.2)
    assert "diverged at 1.0e+00" in reason


def test_without_a_fall_nothing_is_suggested():
    assert curve([2.0] * 100).suggest()[0] is None
    assert curve([2.0 + 0.01 * step for step in range(100)]).suggest()[0] is None


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_real_stage_is_tried_and_leaves_no_model(make_job, tuning):
    job = make_job(recipe={"tuning": tuning}, steps=30, batch_tokens=128)
    found = train_sft(replace(job, instead=run_range_test))
    assert len(found.rates) == len(found.losses) <= 30
    assert min(found.losses) < found.losses[0]
    assert all(map(math.isfinite, found.losses))
    assert not job.final.exists()
    assert not job.checkpoints.exists()
