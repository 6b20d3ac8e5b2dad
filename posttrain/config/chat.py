"""How `posttrain chat` talks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from posttrain.config.base import Config, ModelName


class ChatConfig(Config):
    """Settings of a conversation in the terminal."""

    model: ModelName
    """A run, a model folder, a hub id, or a built-in name."""
    system: str | None = None
    """Instruction before the first turn."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.0
    """0 always takes the most likely token; higher is more varied."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the most likely tokens that together have this probability."""
    max_new_tokens: PositiveInt = 512
    """Longest answer."""
    seed: NonNegativeInt = 0
    """Of the sampling, where the temperature is above 0."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""
