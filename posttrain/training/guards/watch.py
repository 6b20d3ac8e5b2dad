"""All guards of a stage, at the places of a run where each looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from posttrain.checkpoints import FoundCheckpoint
from posttrain.config.guards import GuardedStage
from posttrain.config.train import OnlineStage
from posttrain.errors import ConfigError
from posttrain.files import load_json, write_json
from posttrain.logs import say
from posttrain.training.guards.gradients import check_adapters_moved, check_reached
from posttrain.training.guards.policy import PolicyWatch
from posttrain.training.guards.rollback import Rollbacks, SpoiltStepError, scale_learning_rate
from posttrain.training.guards.spikes import SpikeWatch
from posttrain.training.guards.start import check_optimizer
from posttrain.training.guards.stopping import EarlyStopping
from posttrain.training.processes import sum_over_processes

_FILE = "guards.json"
_LOOKS = 2
"""First steps that teach something, whose gradients are looked at tensor by tensor."""


class Guards(TrainerCallback):
    """Guards one attempt at a stage.

    Args:
        stage: Its settings.
        rollbacks: What the stage has gone back for.
        found: Where this attempt begins.
    """

    def __init__(self, stage: GuardedStage, rollbacks: Rollbacks, found: FoundCheckpoint) -> None:
        self.stage = stage
        self.rollbacks = rollbacks
        self.found = found
        self._looks = 0
        self._spikes = SpikeWatch(stage.loss_spike) if stage.loss_spike else None
        self._policy = PolicyWatch() if isinstance(stage, OnlineStage) else None
        stopping = stage.early_stopping
        higher = stage.is_higher_better(stage.watched)
        self._stopping = EarlyStopping(stopping, stage.watched, higher) if stopping else None
        if found.path and (found.path / _FILE).is_file():
            self._load(load_json(found.path / _FILE))
        if measured := found.manifest.get("validation"):  # after the checkpoint was written
            self.look_at_validation(found.step, measured)

    @property
    def stopped_early(self) -> str:
        """Why the stage has stopped before its last step, in words; empty where it has not."""
        return self._stopping.reason if self._stopping else ""

    def passes_over(self, step: int) -> bool:
        """Whether a step, from 1, is not to be made."""
        return step in self.rollbacks.steps

    def look_at_loss(self, step: int, loss: Tensor, rows: Callable[[], Sequence[str]]) -> None:
        """Look at the loss of a step before it is applied, as a mean over all processes.

        Raises:
            SpoiltStepError: It is a spike, and the recipe wants more than a warning.
        """
        if self._spikes is None:
            return
        totals = sum_over_processes({"loss": float(loss), "processes": 1.0})
        found = self._spikes.look(totals["loss"] / totals["processes"])
        if found is None:
            return
        if self._spikes.config.action != "warn":
            hint = "look at these rows, lower learning_rate, or set loss_spike.action"
            raise SpoiltStepError(step, found, rows(), hint=hint, kind="spike")
        named = list(rows())
        say(f"warning: step {step}: {found} ({len(named)} rows, such as {', '.join(named[:3])})")

    def look_at_gradients(self, model: Any, step: int, norm: Tensor) -> None:
        """In the first steps that teach something: every trainable tensor has a gradient.

        Args:
            model: After the backward pass of a whole step; None where DeepSpeed has shared the
                gradients out.
            step: Optimizer steps done before this one.
            norm: Of the whole gradient.

        Raises:
            VerificationError: Names those without one.
        """
        if self._looks < _LOOKS and bool(norm):
            self._looks += 1
            if model is not None:
                check_reached(model, step, self.stage.without_gradient)

    def look_at_validation(self, step: int, means: dict[str, float]) -> bool:
        """Whether to stop because validation has not got better for a while.

        Raises:
            ConfigError: What is to be looked at was not measured.
        """
        if self._stopping is None:
            return False
        metric = self._stopping.metric
        if metric not in means and not self.stage.needs_validation(metric):
            return False  # tasks are not measured at every checkpoint
        if metric not in means:
            raise ConfigError(
                f"`early_stopping.metric: {metric}` was not measured; measured were "
                f"{', '.join(sorted(means))}"
            )
        stops = self._stopping.look(step, means[metric])
        if stops:
            say(self.stopped_early)
        return stops

    def look_at_metrics(self, step: int, values: dict[str, float]) -> None:
        """Warn of what a line of metrics gives away."""
        for line in self._policy.look(values) if self._policy else ():
            say(f"warning: step {step}: {line}")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Compare the optimizer with the model, and lower its rate after a rollback."""
        check_optimizer(kwargs["model"], kwargs["optimizer"])
        if self.rollbacks.taken:
            factor = self.rollbacks.learning_rate_factor
            scale_learning_rate(kwargs["optimizer"], kwargs["lr_scheduler"], factor)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the second step that teaches something: adapters have moved."""
        if self._looks == _LOOKS:
            self._looks += 1
            check_adapters_moved(kwargs["model"], state.global_step, self.stage.without_gradient)

    def save(self, folder: Path) -> None:
        """Write what a resumed run needs to go on as an unbroken one."""
        kept: dict[str, Any] = {"looks": self._looks}
        kept |= {name: guard.save() for name, guard in self._list()}
        write_json(folder / _FILE, kept)

    def _load(self, kept: dict[str, Any]) -> None:
        self._looks = kept["looks"]
        for name, guard in self._list():
            if name in kept:
                guard.load(kept[name])

    def _list(self) -> list[tuple[str, Any]]:
        """What has something to remember, by name."""
        parts = {"spikes": self._spikes, "stopping": self._stopping, "policy": self._policy}
        return [(name, guard) for name, guard in parts.items() if guard is not None]
