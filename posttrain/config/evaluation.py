"""What is measured, on which problems."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from posttrain.config.base import Config, StageName
from posttrain.config.data import SourceConfig


class TaskConfig(Config):
    """One set of problems and how its answers are graded."""

    task: Literal["gsm8k"]
    """`gsm8k`: exact numeric equality of the final answer."""
    name: StageName | None = None
    """Folder of the results; the task's own name where absent."""
    data: SourceConfig
    """The problems with their reference answers."""
    max_new_tokens: PositiveInt = 256
    """Longest answer."""
    batch_size: PositiveInt = 64
    """Answers written side by side."""

    @property
    def label(self) -> str:
        """Name of the results' folder."""
        return self.name or self.task


class EvaluateStage(Config):
    """Measure the latest model."""

    stage: Literal["evaluate"]
    name: StageName = "evaluate"
    model_from: StageName | Literal["base"] | None = None
    """Training stage whose model to measure, or `base`; the latest one where absent."""
    compare_to: StageName | None = None
    """Earlier evaluate stage on the same problems; the paired difference is reported."""
    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]
