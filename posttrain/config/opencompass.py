"""How a model is described to OpenCompass, which measures it in an environment of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from posttrain.config.base import Config, ConfigPath, ModelName


class OpencompassConfig(Config):
    """One entry of OpenCompass's `models`."""

    engine: Literal["transformers", "vllm", "lmdeploy", "openai"] = "transformers"
    """What OpenCompass computes with: the model itself, or, as `openai`, a server such as
    `posttrain serve`. `lmdeploy` takes no adapter."""
    chat_template: bool | None = None
    """Put problems as turns of a chat, or as plain text; where absent, as turns where the tokenizer
    has a chat template."""
    max_new_tokens: PositiveInt = 1024
    """Longest answer."""
    max_tokens: PositiveInt | None = None
    """Longest prompt with its answer; the model's own limit where absent."""
    batch_size: PositiveInt = 8
    """Problems computed side by side."""
    gpus: NonNegativeInt = 1
    """GPUs that one copy of the model takes."""
    url: str = "http://127.0.0.1:8000/v1"
    """Of `openai`: address of the server; its key is in the variable OPENAI_API_KEY."""
    served_name: Annotated[str, Field(min_length=1)] | None = None
    """Of `openai`: what the server calls the model; as it was typed where absent."""


class OpencompassCommand(Config):
    """Settings of `evaluate --opencompass`."""

    model: ModelName
    """A run, a stage, a model folder, a hub id, or a built-in name."""
    opencompass: OpencompassConfig = OpencompassConfig()
    out: ConfigPath | None = None
    """Folder for OpenCompass's `--config-dir`; where absent, `opencompass` in the run's or stage's
    folder, and `runs/NAME/opencompass` for any other model."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""
