"""Stopping early: when validation has not got better for a while."""

from __future__ import annotations

from typing import Any

from posttrain.config.guards import EarlyStoppingConfig


class EarlyStopping:
    """Looks at every validation.

    Args:
        config: How long to wait.
        metric: What is looked at.
        higher_is_better: Of it.
    """

    def __init__(self, config: EarlyStoppingConfig, metric: str, higher_is_better: bool) -> None:
        self.config = config
        self.metric = metric
        self._sign = -1 if higher_is_better else 1
        self._seen = 0
        self._best: float | None = None
        self._best_step = 0
        self._waited = 0
        self.reason = ""
        """Why the stage has stopped, in words; empty while it goes on."""

    def look(self, step: int, value: float) -> bool:
        """Take in a validation, once for each step; return whether to stop."""
        if step <= self._seen:
            return bool(self.reason)
        self._seen = step
        if self._best is None or self._sign * (self._best - value) > self.config.min_delta:
            self._best, self._best_step, self._waited = value, step, 0
        else:
            self._waited += 1
        if self._waited >= self.config.patience:
            least = f" by more than {self.config.min_delta:g}" if self.config.min_delta else ""
            self.reason = (
                f"stopped early after step {step}: validation {self.metric} has not got better"
                f"{least} in {self._waited} validations since step {self._best_step} "
                f"({self._best:.4g}, now {value:.4g})"
            )
        return bool(self.reason)

    def save(self) -> dict[str, Any]:
        """What a resumed run needs to stop at the same step."""
        return {
            "seen": self._seen,
            "best": self._best,
            "best_step": self._best_step,
            "waited": self._waited,
            "reason": self.reason,
        }

    def load(self, kept: dict[str, Any]) -> None:
        """Take up what ``save`` has returned."""
        self._seen, self._best, self._best_step = kept["seen"], kept["best"], kept["best_step"]
        self._waited, self.reason = kept["waited"], kept["reason"]
