"""What every training stage is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.config.recipe import Recipe
from posttrain.runtime import Compute


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
    earlier_seconds: float
    """Training time of interrupted attempts, as far as their steps were kept."""
    validation: dict[str, float] = field(default_factory=dict)
    """Figures of the last validation, as ``metrics.jsonl`` calls them."""
