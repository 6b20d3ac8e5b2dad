"""Which tasks of lm-evaluation-harness are run, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from posttrain.config.base import Config, ConfigPath, Located, ModelName, StageName
from posttrain.config.model import ComputeConfig


def _read_tasks(value: Any) -> Any:
    """Take names with commas between them for a list: ``arc_easy,hellaswag`` is short to type."""
    if isinstance(value, Located):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


TaskNames = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_read_tasks),
    Field(min_length=1),
]


class HarnessConfig(Config):
    """Tasks of lm-evaluation-harness (extra `harness`)."""

    tasks: TaskNames
    """Names of its tasks, groups or tags; `mmlu_*` means all that begin so."""
    tasks_folder: ConfigPath | None = None
    """Folder of task files (YAML) of your own; they come before the harness's. Only from sources
    you trust: a task may bring Python code."""
    limit: PositiveInt | None = None
    """Use only the first problems of each task."""
    num_fewshot: NonNegativeInt | None = None
    """Solved examples before each problem; the task's own number where absent, and where the task
    fixes it at 0."""
    batch_size: PositiveInt = 16
    """Problems computed side by side."""
    max_tokens: PositiveInt | None = None
    """Longest prompt with its answer, cut on the left; the model's own limit where absent."""
    max_new_tokens: PositiveInt | None = None
    """Longest written answer; the task's own where absent."""
    chat_template: bool = False
    """Put problems as turns of a chat; as plain text otherwise, as the harness does by itself."""
    system: str | None = None
    """Instruction before each problem."""
    seed: NonNegativeInt = 1234
    """Of the choice of solved examples, and of sampling where a task samples; the harness's own."""
    run_generated_code: bool = False
    """Allow tasks that run the code a model writes. Only where that can do no harm."""


class HarnessStage(HarnessConfig):
    """Measure the latest model on tasks of lm-evaluation-harness."""

    stage: Literal["harness"]
    name: StageName = "harness"
    model_from: StageName | Literal["base"] | None = None
    """Stage whose model to measure, or `base`; the latest one where absent."""


class HarnessCommand(Config):
    """Settings of `evaluate --harness` for a run or a model."""

    model: ModelName
    """A run, a stage, a model folder, a hub id, or a built-in name."""
    harness: HarnessConfig
    out: ConfigPath | None = None
    """Folder of the results; where absent, `harness` in the run's or stage's folder, and
    `runs/NAME/harness` for any other model."""
    compute: ComputeConfig = ComputeConfig()
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""
