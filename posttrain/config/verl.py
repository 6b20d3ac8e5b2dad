"""What a Ray cluster with verl needs to be told besides the stage's own settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from posttrain.config.base import Config
from posttrain.config.verl_keys import REMOVED_ROLLOUT, read_verl_setting

Logger = Literal["console", "wandb", "swanlab", "tensorboard", "mlflow", "clearml", "file"]
Scalar = bool | int | float | str | None


class VerlConfig(Config):
    """The cluster and the server that writes the answers; used where `engine` is `verl`."""

    rollout_backend: Literal["vllm", "sglang", "trtllm"] = "vllm"
    """Server that writes the answers."""
    gpus_per_node: PositiveInt = 1
    """GPUs of each machine."""
    nodes: PositiveInt = 1
    """Machines of the Ray cluster."""
    tensor_parallel: PositiveInt = 1
    """GPUs over which the server spreads one copy of the model."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of a GPU's memory that the server takes; training needs the rest."""
    micro_batch_per_gpu: PositiveInt = 4
    """Answers that go through the model at once on one GPU."""
    critic_learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Of `ppo`: highest learning rate of the critic, which is a model of its own in verl."""
    logger: Annotated[tuple[Logger, ...], Field(min_length=1)] = ("console",)
    """Where verl reports its metrics."""
    overrides: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    """Settings of verl itself, by their dotted names; they win over all that is derived."""

    @field_validator("rollout_backend", mode="before")
    @classmethod
    def _refuse_removed(cls, value: Any) -> Any:
        if value == "hf":
            raise ValueError(REMOVED_ROLLOUT)
        return value

    @field_validator("overrides", mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        """Take nested keys too: the command line splits dotted ones."""
        return dict(_dotted(value)) if isinstance(value, dict) else value

    @field_validator("overrides")
    @classmethod
    def _check_overrides(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {key: read_verl_setting(key, setting) for key, setting in value.items()}


def _dotted(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
