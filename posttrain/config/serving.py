"""How `posttrain serve` answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from posttrain.config.base import Config, ModelName, TemplatePath


class ServeConfig(Config):
    """Settings of the server. The key clients must show is in the variable POSTTRAIN_API_KEY."""

    model: ModelName
    """A run, a stage, a model or adapter folder, a hub id, or a built-in name."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """What clients call the model; without it, as it was typed."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs POSTTRAIN_API_KEY."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 takes any free one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights: auto is float32 on a CPU and bfloat16 on a GPU."""
    threads: Literal["auto"] | PositiveInt = "auto"
    """CPU threads; auto measures for a moment."""
    chat_template: TemplatePath | None = None
    """Replaces the tokenizer's own chat template: a Jinja file, a `.json` of prefixes and suffixes,
    or a name, as in `model.chat_template`."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""
    max_tokens: PositiveInt = 4096
    """Most tokens that a request may ask for."""
    default_max_tokens: PositiveInt = 512
    """What a request gets that does not say; less where the model's context is full before."""
    max_running: PositiveInt = 4
    """Requests that are written at the same time; they take turns, token by token."""
    max_waiting: Annotated[int, Field(ge=0)] = 32
    """Requests that may wait for their turn; one more is refused with status 429."""
    max_body_bytes: PositiveInt = 1_048_576
    """Largest request."""
    timeout_seconds: PositiveFloat = 120.0
    """Longest time from a request to the end of its answer; then generation stops."""
    log_requests: bool = False
    """Write a line per request, without texts and keys."""
