"""Training stages, one class each, told apart by `stage:`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from posttrain.config.base import Config, StageName
from posttrain.config.data import DataConfig

Beta = Annotated[float, Field(ge=0, lt=1)]


class SftStage(Config):
    """Supervised fine-tuning: learn the assistant's turns."""

    stage: Literal["sft"]
    name: StageName = "sft"
    data: DataConfig
    start_from: StageName | None = None
    """Earlier training stage whose model to go on from; the latest one where absent."""
    epochs: PositiveFloat = 1.0
    """Passes over the data; a fraction is a partial last pass."""
    steps: PositiveInt | None = None
    """Optimizer steps, instead of `epochs`: as many passes as that takes."""
    batch_tokens: PositiveInt = 8192
    """Most tokens in one packed batch on one device; nothing is padded."""
    accumulate: PositiveInt = 1
    """Batches added up before each optimizer step."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-5
    """Highest learning rate; LoRA usually wants ten times that of full tuning."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after the warm-up; cosine and linear end at 0."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta1: Beta = 0.9
    """AdamW: memory of the gradient."""
    beta2: Beta = 0.999
    """AdamW: memory of its square."""
    max_grad_norm: PositiveFloat = 1.0
    """Longer gradients are scaled down to this."""
    activation_checkpointing: bool = False
    """Compute activations twice and keep fewer of them: less memory, slower."""
    log_every_steps: PositiveInt = 10
    save_every_steps: PositiveInt = 200
    """Steps between checkpoints; validation loss is measured at each."""
    keep_last: PositiveInt = 3
    """Checkpoints kept besides the best."""


TRAINING_STAGES = ("sft",)
