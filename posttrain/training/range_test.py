"""Learning rate range test: the rate rises at every step until the loss diverges.

Source:
    Smith 2017, arXiv:1506.01186, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import ConfigError
from posttrain.logs import Progress
from posttrain.runtime import world_size
from posttrain.training.fit import Course
from posttrain.training.guards.start import check_trainable
from posttrain.training.optimizers import build_optimizer
from posttrain.training.stage import TrainingJob

STEPS = 100
LOWEST, HIGHEST = 1e-7, 1.0
_DIVERGED = 2.0  # times the lowest loss so far
_SMOOTHED = 7  # steps
_LEAST_GAIN = 0.01  # share of the first loss


@dataclass(frozen=True)
class RateCurve:
    """Loss of each step by its learning rate."""

    rates: list[float]
    losses: list[float]
    """Before the step's update."""
    diverged: bool
    """Whether the test has ended because of the loss."""

    @property
    def smoothed(self) -> list[float]:
        """Mean over the neighbours, so that single batches do not rule."""
        half = _SMOOTHED // 2
        parts = [self.losses[max(i - half, 0) : i + half + 1] for i in range(len(self.losses))]
        return [sum(part) / len(part) for part in parts]

    def suggest(self) -> tuple[float | None, str]:
        """Find a learning rate.

        Returns:
            A tenth of the rate with the lowest loss, or the rate at which the loss fell fastest
            where that is less, and the reason; None where the loss has hardly fallen.
        """
        losses = self.smoothed
        lowest = losses.index(min(losses))
        fallen = losses[0] - losses[lowest]
        if not lowest or fallen < _LEAST_GAIN * abs(losses[0]):
            return None, "the loss has hardly fallen at any rate; is there something to learn?"
        steepest = min(range(1, lowest + 1), key=lambda i: losses[i] - losses[i - 1])
        found = min(self.rates[lowest] / 10, self.rates[steepest])
        end = f"diverged at {self.rates[-1]:.1e}" if self.diverged else "has not diverged"
        return found, (
            f"the loss fell fastest at {self.rates[steepest]:.1e}, was lowest at "
            f"{self.rates[lowest]:.1e} and {end}"
        )


def run_range_test(job: TrainingJob, model: Any, tokenizer: Any, course: Course) -> RateCurve:
    """Train a model that is thrown away with rates from 1e-7 up to 1, or until it diverges.

    Args:
        job: The stage, of ``STEPS`` steps.
        model: Before its first step; it is spoilt.
        tokenizer: Its tokenizer.
        course: Objective and batches.

    Returns:
        What came of it.

    Raises:
        ConfigError: There are several processes.
        VerificationError: Nothing is trainable.
    """
    if world_size() > 1:
        raise ConfigError(
            "a learning rate is looked for by one process", hint="start it without a launcher"
        )
    check_trainable(model)
    model.to(job.compute.device).train()
    optimizer = build_optimizer(model, stage=job.stage, recipe=job.recipe)
    firsts = [group["lr"] / job.stage.learning_rate for group in optimizer.param_groups]
    rates: list[float] = []
    losses: list[float] = []
    least = math.inf
    progress = Progress(f"learning rates of {job.stage.name}", STEPS, "steps")
    for number, rate in enumerate(list_rates(min(STEPS, len(course.dataset)))):
        for group, first in zip(optimizer.param_groups, firsts, strict=True):
            group["lr"] = rate * first
        loss = _step(job, model, course, number)
        if not math.isfinite(loss):
            return RateCurve(rates, losses, diverged=True)
        torch.nn.utils.clip_grad_norm_(model.parameters(), job.stage.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        rates.append(rate)
        losses.append(loss)
        least = min(least, sum(losses[-_SMOOTHED:]) / len(losses[-_SMOOTHED:]))
        if loss > least + (_DIVERGED - 1) * abs(least):
            return RateCurve(rates, losses, diverged=True)
        progress.update(number)
    return RateCurve(rates, losses, diverged=False)


def list_rates(steps: int) -> Iterator[float]:
    """Yield rates that rise by the same factor from step to step."""
    for number in range(steps):
        yield LOWEST * (HIGHEST / LOWEST) ** (number / max(steps - 1, 1))


def _step(job: TrainingJob, model: Any, course: Course, number: int) -> float:
    """Send a step's loss backward, as the trainer would on one device."""
    batches = [
        {
            name: value.to(job.compute.device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        for batch in course.dataset[number]["batches"]
    ]
    total = torch.stack([course.objective.weigh(batch).float() for batch in batches]).sum()
    bf16 = job.compute.precision == "bf16"
    whole = 0.0
    for batch in batches:
        with torch.autocast(job.compute.device, torch.bfloat16) if bf16 else nullcontext():
            result = course.objective.measure(model, batch, total)
        result.loss.backward()
        whole += float(result.loss.detach())
    return whole
