"""The course of the learning rate: transformers' own, looked at before anything is spent."""

from __future__ import annotations

from posttrain.config.optimizer import OptimizerConfig
from posttrain.errors import ConfigError

_ROUNDING = 1 + 1e-6  # the schedules multiply and divide by the rate


def scheduler_name(stage: OptimizerConfig) -> str:
    """What transformers calls the schedule."""
    # Its own `constant` would pass over the warm-up.
    return "constant_with_warmup" if stage.schedule == "constant" else stage.schedule


def count_warmup(stage: OptimizerConfig, steps: int) -> int:
    """Count the steps over which the learning rate rises.

    Args:
        stage: Its settings.
        steps: Optimizer steps of the whole stage.

    Raises:
        ConfigError: Nothing would be left after them.
    """
    if stage.warmup_steps is None:
        return round(stage.warmup * steps)
    if stage.warmup_steps >= steps:
        raise ConfigError(
            f"`warmup_steps: {stage.warmup_steps}` leaves none of the stage's {steps:,} steps for "
            f"the schedule `{stage.schedule}`",
            hint="set warmup, a share of the steps, instead",
        )
    return stage.warmup_steps


def plan_rates(stage: OptimizerConfig, steps: int) -> list[float]:
    """Reckon the learning rate of every optimizer step, with transformers' own scheduler.

    Args:
        stage: Its settings.
        steps: Optimizer steps of the whole stage.

    Returns:
        The rates, [steps].

    Raises:
        ConfigError: Options that do not fit learning rate and steps.
    """
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=stage.learning_rate)
    try:
        scheduler = get_scheduler(
            scheduler_name(stage),
            optimizer,
            num_warmup_steps=count_warmup(stage, steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=dict(stage.schedule_options),
        )
        factor = scheduler.lr_lambdas[0]
        rates = [float(stage.learning_rate * factor(step)) for step in range(steps)]
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(
            f"`schedule: {stage.schedule}` with `schedule_options: {stage.schedule_options}`: "
            f"{error}"
        ) from error
    if not max(rates) > 0 or min(rates) < 0:
        raise ConfigError(
            f"`schedule: {stage.schedule}` goes from {min(rates):.1e} to {max(rates):.1e} in "
            f"{steps:,} steps; a rate must not be below 0, nor always 0",
            hint="look at warmup, warmup_steps and schedule_options",
        )
    if max(rates) > stage.learning_rate * _ROUNDING:
        raise ConfigError(
            f"`schedule: {stage.schedule}` with `schedule_options: {stage.schedule_options}` rises "
            f"to {max(rates):.1e}, above `learning_rate: {stage.learning_rate:.1e}`",
            hint="give a share by min_lr_rate, or a min_lr below the learning rate",
        )
    return rates
