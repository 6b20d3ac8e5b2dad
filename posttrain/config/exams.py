"""What a model is measured on while it is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from posttrain.config.base import Config
from posttrain.config.evaluation import (
    AnswerTask,
    BaseTask,
    PerplexityTask,
    TaskConfig,
    check_labels,
)


class TrainingEvaluation(Config):
    """Tasks that the model in training is measured on, at its checkpoints.

    Their scores stand in `metrics.jsonl` as `gsm8k/accuracy`, and may rank the checkpoints.
    """

    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]
    """As of an evaluate stage, but `items`."""
    problems: PositiveInt | None = 64
    """Problems of each task, chosen by `seed` and their contents, the same ones all the time; all
    where null. With 64, one accuracy is known to about 12 points either way."""
    seed: NonNegativeInt = 0
    """Of the choice."""
    every_steps: PositiveInt | None = None
    """A multiple of `save_every_steps`; each checkpoint where absent. The last step is always
    measured."""

    @property
    def metrics(self) -> dict[str, bool]:
        """What is measured, as `task/metric`, and whether more of it is better."""
        return {
            f"{task.label}/{name}": better
            for task in self.tasks
            for name, better in _list_metrics(task).items()
        }

    @model_validator(mode="after")
    def _check_tasks(self) -> TrainingEvaluation:
        check_labels(self.tasks)
        if idle := [task.label for task in self.tasks if task.needs == "nothing"]:
            raise ValueError(f"the task `{idle[0]}` looks at a file and asks no model")
        return self


def _list_metrics(task: BaseTask) -> dict[str, bool]:
    if isinstance(task, PerplexityTask):
        return {"perplexity": False, "nats_per_token": False, "bits_per_byte": False}
    if isinstance(task, AnswerTask) and task.needs == "generate":
        return {"accuracy": True, "strict_accuracy": True}
    return {"accuracy": True}
