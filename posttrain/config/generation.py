"""What writes the answers that are measured."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from posttrain.config.base import Config


def _check_address(address: str) -> str:
    parts = urlsplit(address)  # complains of half a bracket
    if not parts.hostname or " " in address or parts.port == 0:  # and this of a port beyond 65535
        raise ValueError("names no host and port")
    return address


class TransformersBackEnd(Config):
    """The model itself, in this process; a task's `batch_size` answers are written side by side."""

    backend: Literal["transformers"] = "transformers"
    """The model is loaded with transformers."""


class VllmBackEnd(Config):
    """vLLM's engine in this process (extra `vllm`, for a GPU)."""

    backend: Literal["vllm"]
    """The model is loaded with vLLM."""
    tensor_parallel: PositiveInt = 1
    """GPUs that share the model."""
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that the engine takes."""
    max_tokens: PositiveInt | None = None
    """Longest prompt and answer together; the model's own limit where absent."""


class OpenAIBackEnd(Config):
    """An endpoint with OpenAI's protocol (extra `openai`), such as `vllm serve`.

    What is measured is what it serves, which may be another model than the stage's.
    """

    backend: Literal["openai"]
    """Answers are asked for over HTTP."""
    address: Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_check_address)]
    """Where it answers, up to and with `/v1`."""
    model: str | None = None
    """What it calls the model; the first that it lists where absent."""
    format: Literal["chat", "text"] = "chat"
    """`chat` sends messages and tools, and the endpoint's template is used; `text` sends the prompt
    as our own template renders it."""
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "OPENAI_API_KEY"
    """Environment variable that holds the key; where it is not set, none is sent."""
    concurrency: PositiveInt = 8
    """Answers asked for at the same time."""
    timeout_seconds: PositiveFloat = 600.0
    """Longest wait for one answer."""
    tries: PositiveInt = 5
    """Attempts per answer, where the endpoint is busy, fails or does not answer in time."""
    retry_seconds: PositiveFloat = 1.0
    """Pause before the second attempt; it doubles from one to the next, up to a minute. What the
    endpoint asks for (`Retry-After`) is kept to."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request: `{chat_template_kwargs: {enable_thinking: false}}`."""


GeneratorConfig = Annotated[
    TransformersBackEnd | VllmBackEnd | OpenAIBackEnd, Field(discriminator="backend")
]
