"""The course of the learning rate: transformers' own, planned, checked, gone on with."""

import inspect
import itertools
from typing import Any, get_args

import pytest
import torch
from transformers import get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_utils import SchedulerType

from posttrain.config.optimizer import OptimizerConfig
from posttrain.config.schedules import SCHEDULE_OPTIONS
from posttrain.errors import ConfigError
from posttrain.training.schedules import count_warmup, plan_rates

STEPS, WARMUP, RATE = 20, 4, 0.01
OPTIONS: dict[str, dict[str, Any]] = {
    "cosine": {},
    "linear": {},
    "constant": {},
    "cosine_with_restarts": {"num_cycles": 2},
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr": 0.002, "warmup_lr_rate": 0.5},
    "polynomial": {"lr_end": 0.001, "power": 2.0},
    "inverse_sqrt": {"timescale": 8},
    "warmup_stable_decay": {"num_decay_steps": 6, "decay_type": "1-sqrt", "min_lr_ratio": 0.1},
}
# The rate of the last step by the formulas in transformers' documentation, as a share.
LAST = {
    "cosine": 0.00960736,  # (1 + cos(pi 15/16)) / 2
    "linear": 1 / 16,
    "constant": 1.0,
    "cosine_with_restarts": 0.03806023,  # (1 + cos(pi 14/16)) / 2
    "cosine_with_min_lr": 0.1 + 0.9 * 0.00960736,
    "cosine_warmup_with_min_lr": 0.2,
    "polynomial": 0.1 + 0.9 / 16**2,
    "inverse_sqrt": (8 / 23) ** 0.5,
    "warmup_stable_decay": 0.1 + 0.9 * (1 - (5 / 6) ** 0.5),
}


def stage_for(schedule: str, **changes: Any) -> OptimizerConfig:
    settings = {"schedule": schedule, "schedule_options": OPTIONS.get(schedule, {})}
    return OptimizerConfig.model_validate(
        {**settings, "learning_rate": RATE, "warmup_steps": WARMUP, **changes}
    )


def test_every_schedule_of_transformers_is_offered_or_left_out_for_a_reason():
    offered = set(get_args(OptimizerConfig.model_fields["schedule"].annotation))
    assert offered == set(OPTIONS)
    # Those two follow what is measured, so that nothing could be planned.
    left_out = {"reduce_lr_on_plateau", "greedy", "constant_with_warmup"}
    assert {kind.value for kind in SchedulerType} - offered <= left_out


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_are_those_of_the_installed_function(name):
    theirs = "constant_with_warmup" if name == "constant" else name
    function = TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(theirs)]
    ours = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    assert set(inspect.signature(function).parameters) - ours == set(SCHEDULE_OPTIONS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_the_plan_is_what_an_optimizer_steps_through(name):
    rates = plan_rates(stage_for(name), STEPS)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=RATE)
    theirs = "constant_with_warmup" if name == "constant" else name
    scheduler = get_scheduler(theirs, optimizer, WARMUP, STEPS, OPTIONS[name])
    walked = []
    for _ in range(STEPS):
        walked.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(walked, rel=1e-12)
    assert rates[-1] == pytest.approx(LAST[name] * RATE, rel=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_warm_up_is_no_ornament(name):
    rates = plan_rates(stage_for(name), STEPS)
    rising = rates[:WARMUP]
    assert all(low < high for low, high in itertools.pairwise(rising))
    assert max(rates) == pytest.approx(RATE)
    without = plan_rates(stage_for(name, warmup_steps=0), STEPS)
    assert rates[0] < 0.6 * without[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_schedule_goes_on_where_it_was(name):
    rates = plan_rates(stage_for(name), STEPS)
    theirs = "constant_with_warmup" if name == "constant" else name

    def begin() -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=RATE)
        return optimizer, get_scheduler(theirs, optimizer, WARMUP, STEPS, OPTIONS[name])

    optimizer, scheduler = begin()
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    saved = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = begin()
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    walked = []
    for _ in range(9, STEPS):
        walked.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert walked == pytest.approx(rates[9:], rel=1e-12)


def test_a_share_of_the_steps_is_a_warm_up_too():
    assert count_warmup(OptimizerConfig(warmup=0.25), 20) == 5
    assert count_warmup(OptimizerConfig(warmup_steps=7), 20) == 7
    with pytest.raises(ConfigError, match="leaves none of the stage's 20 steps"):
        count_warmup(OptimizerConfig(warmup_steps=20), 20)


def test_options_that_do_not_fit_the_rate_are_found_before_anything_is_spent():
    with pytest.raises(ConfigError, match="lr_end"):
        plan_rates(stage_for("polynomial", schedule_options={"lr_end": 0.5}), STEPS)


def test_a_least_rate_above_the_rate_is_refused():
    # As where a share, `min_lr_rate: 0.1`, was meant.
    with pytest.raises(ConfigError, match=r"rises to 1.0e-01, above `learning_rate: 1.0e-02`"):
        plan_rates(stage_for("cosine_with_min_lr", schedule_options={"min_lr": 0.1}), STEPS * 50)


def test_one_step_that_is_all_warm_up_is_refused():
    with pytest.raises(ConfigError, match="always 0"):
        plan_rates(stage_for("cosine", warmup_steps=None, warmup=0.9), 1)
