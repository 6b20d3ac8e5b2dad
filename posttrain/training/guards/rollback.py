"""Going back: a step that cannot be applied is passed over, from the last intact checkpoint on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from posttrain.config.guards import GuardedStage
from posttrain.errors import NonFiniteError
from posttrain.files import load_json, write_json
from posttrain.logs import say
from posttrain.runtime import is_main_process

ROLLBACKS_FILE = "rollbacks.json"
"""In a stage's folder: which steps were passed over, and why."""


_HINT = (
    "lower the learning rate, look at these rows with posttrain inspect, or set on_nonfinite: "
    "rollback"
)


class SpoiltStepError(NonFiniteError):
    """A step whose loss or gradient is not to be applied; raised before it is.

    Args:
        step: Its number, from 1.
        what: What is wrong with it.
        rows: Where its rows, or those of the batch at fault, were read.
        hint: What to do about it.
        kind: Whether it is a number that is none, or one that is far too large.
    """

    def __init__(
        self,
        step: int,
        what: str,
        rows: Sequence[str],
        *,
        hint: str = _HINT,
        kind: Literal["nonfinite", "spike"] = "nonfinite",
    ) -> None:
        shown = f"{len(rows)} rows, such as {', '.join(rows[:5])}" if rows else "rows unknown"
        super().__init__(f"step {step}: {what} ({shown})", hint=hint)
        self.step, self.what, self.rows, self.kind = step, what, list(rows), kind


@dataclass(frozen=True)
class Rollback:
    """One time that a stage went back."""

    step: int
    """That was not applied, from 1; every later attempt passes over it."""
    back_to: int
    """Steps of the checkpoint that was taken up."""
    reason: str
    rows: list[str]
    """Where the rows were read that are not trained on because of it."""
    learning_rate_factor: float
    """Of the learning rate from there on, all times together."""


class Rollbacks:
    """What a stage has gone back for, remembered in its folder.

    Args:
        folder: Of the stage.
        stage: Its settings.
    """

    def __init__(self, folder: Path, stage: GuardedStage) -> None:
        self._path = folder / ROLLBACKS_FILE
        self._stage = stage
        known: list[dict[str, Any]] = load_json(self._path) if self._path.is_file() else []
        self.taken = [Rollback(**entry) for entry in known]
        if self.taken:
            say(
                f"passed over since an earlier attempt: step {_join(self.steps)} "
                f"(see {self._path.name}); learning rate x {self.learning_rate_factor:g}"
            )

    @property
    def steps(self) -> set[int]:
        """Steps to pass over, from 1."""
        return {entry.step for entry in self.taken}

    @property
    def learning_rate_factor(self) -> float:
        """What the recipe's learning rate is multiplied by."""
        return self.taken[-1].learning_rate_factor if self.taken else 1.0

    def count_taken(self, before: int, step: int) -> int:
        """Count the steps behind ``before`` up to ``step`` that were not passed over."""
        return step - before - sum(before < skipped <= step for skipped in self.steps)

    def check_allowed(self, error: SpoiltStepError) -> None:
        """Let a step be passed over, where the recipe wants that.

        Raises:
            SpoiltStepError: It does not, or it has happened too often.
        """
        spike = self._stage.loss_spike
        action = self._stage.on_nonfinite
        if error.kind == "spike":
            action = "rollback" if spike and spike.action == "rollback" else "stop"
        if action != "rollback":
            raise error
        if len(self.taken) >= self._stage.rollback.most:
            raise SpoiltStepError(
                error.step,
                f"{error.what}; the stage has gone back {len(self.taken)} times already, for "
                f"steps {_join(self.steps)}",
                error.rows,
                hint="lower learning_rate, look at these rows, or raise rollback.most",
                kind=error.kind,
            ) from error

    def add(self, error: SpoiltStepError, back_to: int) -> None:
        """Remember a step that is passed over from now on."""
        factor = self.learning_rate_factor * self._stage.rollback.learning_rate_factor
        self.taken.append(Rollback(error.step, back_to, error.what, error.rows, factor))
        if is_main_process():
            write_json(self._path, [asdict(entry) for entry in self.taken])
        say(
            f"step {error.step}: {error.what}: going back to step {back_to}; step {error.step} "
            f"is passed over, the learning rate is {factor:g} times the recipe's "
            f"({len(self.taken)} of {self._stage.rollback.most} times; rows: {self._path.name})"
        )


def _join(steps: set[int]) -> str:
    return ", ".join(str(step) for step in sorted(steps))


def scale_learning_rate(optimizer: Any, scheduler: Any, factor: float) -> None:
    """Multiply what a schedule starts from; calling it again changes nothing more.

    Args:
        optimizer: Whose groups know their first learning rate, as a scheduler leaves them.
        scheduler: ``torch.optim.lr_scheduler.LambdaLR``, or accelerate's wrapper around it, which
            there is where DeepSpeed builds the optimizer.
        factor: Of the first learning rate.
    """
    scheduler = getattr(scheduler, "scheduler", scheduler)
    scheduler.base_lrs = [group["initial_lr"] * factor for group in optimizer.param_groups]
    step = scheduler.last_epoch
    for group, base, course in zip(
        optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base * course(step)
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
