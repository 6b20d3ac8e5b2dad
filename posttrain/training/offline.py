"""Training on rows that are there before it starts: what SFT, DPO and the others share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from posttrain.config.recipe import Recipe
from posttrain.data.prepare import PreparedData
from posttrain.data.store import ExampleStore
from posttrain.models.compile import compile_parts
from posttrain.models.load import load_tokenizer
from posttrain.runtime import rank, world_size
from posttrain.training.batches import Finish, PlannedBatches, build_schedule
from posttrain.training.data import load_data
from posttrain.training.fit import Course, fit
from posttrain.training.model import build_model
from posttrain.training.objective import Objective
from posttrain.training.processes import StepBatches, shares_weights
from posttrain.training.stage import TrainingJob, TrainingSummary


@dataclass(frozen=True)
class Method:
    """What is special to a training method."""

    objective: Objective
    finish_train: Finish | None = None
    """Completes a packed training batch; see ``PlannedBatches``."""
    finish_validation: Finish | None = None
    """The same for validation batches."""


BuildMethod = Callable[[TrainingJob, Any, PreparedData], Method]
"""Gets the job, the model before its first step, and the data."""


def train_offline(
    job: TrainingJob, build_method: BuildMethod, load: Callable[[TrainingJob], Any] = build_model
) -> TrainingSummary:
    """Run or resume a stage; the model ends up in ``job.final``.

    Args:
        job: The stage with everything it needs.
        build_method: Makes objective and batches what the method wants them to be.
        load: Loads the model for training.

    Returns:
        Figures of the run.

    Raises:
        PosttrainError: Any of its kinds; an interruption after saving is one.
    """
    tokenizer = load_tokenizer(job.recipe.model)
    data = load_data(job, tokenizer)
    schedule = build_schedule(data.train, job.stage, seed=job.recipe.seed, processes=world_size())
    model = load(job)
    compile_parts(
        model,
        settle_compile(job.recipe),
        device=job.compute.device,
        tokens=int(schedule.batch_size_tokens.sum()),
    )
    method = build_method(job, model, data)
    validation = None
    if len(data.validation):
        once = plan_once(job, data.validation)
        validation = PlannedBatches(data.validation, once, method.finish_validation)
    planned = PlannedBatches(data.train, schedule.batches, method.finish_train)
    course = Course(
        method.objective,
        StepBatches(planned, job.stage.accumulate, rank(), world_size()),
        schedule,
        validation,
        f"{len(schedule.batches):,} batches of up to {job.stage.batch_tokens:,} tokens",
        job.stage.save_every_steps,
    )
    end: Callable[..., TrainingSummary] = job.instead or fit
    return end(job, model, tokenizer, course)


def settle_compile(recipe: Recipe) -> bool | str:
    """What is wanted of ``models.compile``, which moves the whole model to the device.

    With ZeRO-3 one device need not hold it, so `auto` leaves it where it is.
    """
    wanted = recipe.compute.compile
    return False if wanted == "auto" and shares_weights(recipe.parallel) else wanted


def plan_once(job: TrainingJob, store: ExampleStore) -> list[Any]:
    """Plan batches that hold every example once, in an order of their own."""
    once = job.stage.model_copy(update={"epochs": 1.0, "steps": None})
    return build_schedule(replace(store, mixture=None), once, seed=0).batches
