"""How a training stage changes the weights: optimizer, learning rate and its course."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from posttrain.config.base import Config
from posttrain.config.schedules import NEEDED_OPTIONS, check_options
from posttrain.config.training_arguments import TrainingArgs

Beta = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]

_ADAM = ("adamw", "adamw_8bit", "muon")
_USERS = {"beta1": _ADAM, "beta2": _ADAM, "epsilon": _ADAM, "momentum": ("muon",)}


class OptimizerConfig(Config):
    """What all training stages say of their optimizer."""

    optimizer: Literal["adamw", "adamw_8bit", "adafactor", "muon"] = "adamw"
    """`adamw` keeps 8 bytes per trained weight; `adamw_8bit` (bitsandbytes) 2; `adafactor` almost
    none; `muon` 4, and makes the updates of the layers' matrices orthogonal."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-5
    """Highest learning rate; LoRA usually wants ten times that of full tuning."""
    schedule: Literal[
        "cosine",
        "linear",
        "constant",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "polynomial",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] = "cosine"
    """Course of the learning rate after the warm-up; cosine and linear end at 0."""
    schedule_options: dict[str, Any] = Field(default_factory=dict)
    """Of the schedule, by transformers' names: `num_cycles` of `cosine_with_restarts`, `min_lr` or
    `min_lr_rate` of the two with `min_lr`, `lr_end` and `power` of `polynomial`, `timescale` of
    `inverse_sqrt`, `num_decay_steps` and `decay_type` of `warmup_stable_decay`."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps over which the learning rate rises."""
    warmup_steps: NonNegativeInt | None = None
    """Steps over which it rises, instead of `warmup`."""
    weight_decay: Weight = 0.0
    """Share of a weight that is taken away per step, times the learning rate; not of norms and
    biases."""
    beta1: Beta = 0.9
    """AdamW: memory of the gradient."""
    beta2: Beta = 0.999
    """AdamW: memory of its square."""
    epsilon: PositiveFloat = 1e-8
    """AdamW: keeps updates of weights with hardly any gradient small."""
    momentum: Beta = 0.95
    """Muon: memory of the gradient."""
    max_grad_norm: PositiveFloat = 1.0
    """Longer gradients are scaled down to this."""
    training_args: TrainingArgs = Field(default_factory=dict)
    """Fields of the installed `transformers.TrainingArguments`, passed on as they are, such as
    `tf32: true`. One that has a key of its own here is an error that names it."""

    @field_validator("schedule_options")
    @classmethod
    def _check_options(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        schedule = info.data.get("schedule")  # absent where it has a mistake of its own
        return check_options(schedule, value) if schedule else value

    @model_validator(mode="after")
    def _check_optimizer(self) -> OptimizerConfig:
        for name, users in _USERS.items():
            changed = getattr(self, name) != type(self).model_fields[name].default
            if changed and self.optimizer not in users:
                raise ValueError(
                    f"`{name}` is of {' and '.join(users)}, and `optimizer` is {self.optimizer}"
                )
        share_given = self.warmup != type(self).model_fields["warmup"].default
        if self.warmup_steps is not None and share_given:
            raise ValueError("give either `warmup` or `warmup_steps`")
        needed = NEEDED_OPTIONS.get(self.schedule, ())
        if needed and len(set(needed) & set(self.schedule_options)) != 1:
            raise ValueError(
                f"`schedule: {self.schedule}` needs `schedule_options` with "
                f"{' or '.join(f'`{name}`' for name in needed)}"
            )
        return self
