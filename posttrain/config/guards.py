"""What a training stage does when something goes wrong, and when it has learned enough."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from posttrain.config.base import Config
from posttrain.config.exams import TrainingEvaluation
from posttrain.config.keeping import HIGHER_IS_BETTER, KeepBestConfig


class RollbackConfig(Config):
    """How a stage goes back to its last checkpoint; the step that went wrong is passed over."""

    most: PositiveInt = 3
    """Times in one stage; the next time it stops."""
    learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """What the learning rate is multiplied by each time."""


class LossSpikeConfig(Config):
    """When a loss counts as a spike: far above the median of those before it."""

    factor: Annotated[float, Field(gt=1)] = 10.0
    """How many standard deviations above; these are estimated from the median distance to the
    median, and never taken for less than 2 % of it, nor than 0.01."""
    window: Annotated[int, Field(ge=16, le=100_000)] = 64
    """Losses before that it is compared with; the first 16 steps are never spikes."""
    action: Literal["warn", "rollback", "stop"] = "warn"
    """Say it; or, before the step is applied, go back as `rollback` says, or stop."""


class EarlyStoppingConfig(Config):
    """Stop where validation no longer gets better; it is measured at every checkpoint."""

    metric: str | None = None
    """Of the validation, without `validation_`, such as `loss` or `pair_accuracy`, or of
    `evaluation`, such as `gsm8k/accuracy`; that of `keep_best` where absent. It says which
    checkpoint is best where `keep_best` does not."""
    patience: PositiveInt = 3
    """Validations in a row without a better one."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much one must be better to count as better."""


class GuardedStage(Config):
    """What guards a training stage."""

    # What is measured on validation data; the first says which checkpoint is best.
    validation_metrics: ClassVar[tuple[str, ...]]

    evaluation: TrainingEvaluation | None = None
    """Tasks that the model in training is measured on; none where absent."""
    keep_best: KeepBestConfig = KeepBestConfig()
    """Best checkpoints to keep besides."""
    on_nonfinite: Literal["stop", "rollback"] = "stop"
    """When a loss or gradient is NaN or infinite, which is never applied: stop, or go back as
    `rollback` says."""
    rollback: RollbackConfig = RollbackConfig()
    """How a stage goes back to its last checkpoint."""
    loss_spike: LossSpikeConfig | None = LossSpikeConfig()
    """When a loss counts as a spike, and what then; null looks for none."""
    early_stopping: EarlyStoppingConfig | None = None
    """Stop where validation no longer gets better; all steps are done where absent."""
    final_model: Literal["last", "best"] | None = None
    """Which model the stage leaves: that of its last step, or that of the best checkpoint; the
    best with `early_stopping`, else the last, where absent."""
    without_gradient: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Parts of names of trained weights that may get no gradient in the first steps, such as
    `[vision_tower]`; any other such weight stops the stage."""

    @property
    def measured(self) -> dict[str, bool | None]:
        """What is measured at checkpoints, and whether more of it is better; None: not known."""
        own = {name: HIGHER_IS_BETTER.get(name) for name in self.validation_metrics}
        return {**own, **(self.evaluation.metrics if self.evaluation else {})}

    @property
    def watched(self) -> str:
        """Metric that stops the stage early."""
        stopping = self.early_stopping
        return self.name_metric((stopping and stopping.metric) or self.ranked_by)

    @property
    def ranked_by(self) -> str:
        """Metric that says which checkpoint is best."""
        stopping = self.early_stopping
        chosen = self.keep_best.metric or (stopping and stopping.metric)
        return self.name_metric(chosen or self.validation_metrics[0])

    def name_metric(self, metric: str) -> str:
        """Return a metric's whole name: one that validation lacks is that of the only such task."""
        if metric in self.measured:
            return metric
        found = [name for name in self.measured if name.endswith(f"/{metric}")]
        return found[0] if len(found) == 1 else metric

    def needs_validation(self, metric: str) -> bool:
        """Whether a metric is measured on validation data, and not on tasks."""
        return self.name_metric(metric) in self.validation_metrics

    def is_higher_better(self, metric: str) -> bool:
        """Whether more of a metric is better."""
        told = self.keep_best.higher_is_better if metric == self.ranked_by else None
        return bool(self.measured[metric] if told is None else told)

    @property
    def keeps_best(self) -> bool:
        """Whether the stage leaves the model of its best checkpoint."""
        chosen = self.final_model or ("best" if self.early_stopping else "last")
        return chosen == "best"

    @property
    def rolls_back(self) -> bool:
        """Whether the stage may go back to a checkpoint, so that there must always be one."""
        spike = self.loss_spike
        return self.on_nonfinite == "rollback" or bool(spike and spike.action == "rollback")

    @model_validator(mode="after")
    def _check_metrics(self) -> GuardedStage:
        ranking = "keep_best.metric" if self.keep_best.metric else "early_stopping.metric"
        for key, metric in (
            (ranking, self.ranked_by),
            ("early_stopping.metric", self.watched),
        ):
            if metric not in self.measured:
                raise ValueError(
                    f"{key}: `{metric}` is not measured; there is: {', '.join(self.measured)}"
                )
            named = self.keep_best.metric and self.name_metric(self.keep_best.metric)
            ranked = self.keep_best if metric == named else None
            if self.measured[metric] is None and (
                ranked is None or ranked.higher_is_better is None
            ):
                raise ValueError(
                    f"{key}: say whether a higher `{metric}` is better, by `keep_best: "
                    f"{{metric: {metric}, higher_is_better: true}}` or false"
                )
        return self


# Whether a stage goes on after a stop changes nothing of what it had learned before.
GUARDS_WITHOUT_EFFECT = frozenset({"on_nonfinite", "rollback", "loss_spike", "without_gradient"})
