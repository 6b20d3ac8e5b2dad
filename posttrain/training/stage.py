"""What every training stage is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from posttrain.config.recipe import Recipe
from posttrain.runtime import Compute


class Exam(Protocol):
    """Measures the model in training on tasks."""

    def is_due(self, step: int, last: int, save_steps: int) -> bool:
        """Whether it is measured after a step, where there is a checkpoint.

        Args:
            step: Optimizer steps done.
            last: Those of the whole stage.
            save_steps: Those between two checkpoints.
        """

    def measure(self, model: Any, step: int, check: Callable[[], None]) -> dict[str, float]:
        """Measure a model and leave the answers beside the stage's metrics.

        Args:
            model: In evaluation mode; all processes hold the same one.
            step: Optimizer steps done.
            check: Called now and then by all processes alike; raises where the run shall stop.

        Returns:
            ``task/metric`` -> value, the same in all processes.
        """


@dataclass(frozen=True)
class TrainingJob:
    """One training stage, ready to run."""

    recipe: Recipe
    """With every path settled and ``model.path`` the model to start from."""
    stage: Any
    """A ``config.train`` stage of the kind that the method is for."""
    folder: Path
    """The stage's folder."""
    compute: Compute
    command: str
    """What to type to go on after a stop."""
    digest: str = ""
    """Of everything that the stage's result depends on; a checkpoint of another one is refused."""
    planned_trainable: int | None = None
    """Parameters that the settings mean to be trained, counted without the model; None where that
    is not known."""
    exam: Exam | None = None
    """Tasks that the model is measured on at checkpoints."""
    instead: Callable[..., Any] | None = None
    """What is done with job, model, tokenizer and course in the place of training."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the stage's checkpoints."""
        return self.folder / "checkpoints"

    @property
    def final(self) -> Path:
        """Folder of the finished model."""
        return self.folder / "final"


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished stage amounts to, for tables and reports."""

    steps: int
    tokens: int
    trained_tokens: int
    tokens_per_second: float
    trained_tokens_per_second: float
    loss_first: float | None
    loss_last: float | None
    trainable_parameters: int
    total_parameters: int
    moved_share: float
    """Share of trainable tensors that changed."""
    weight_delta: float
    """Norm of the trainable weights' change by their norm at the start."""
    earlier_seconds: float
    """Training time of interrupted attempts, as far as their steps were kept."""
    best_step: int | None = None
    """Of the best validation; None where nothing was measured."""
    stopped_early: str = ""
    """Why the stage ended before its last step, in words; empty where it did not."""
    skipped_steps: int = 0
    """That were not applied, and passed over after going back."""
    validation: dict[str, float] = field(default_factory=dict)
    """Figures of the last validation, as ``metrics.jsonl`` calls them."""
