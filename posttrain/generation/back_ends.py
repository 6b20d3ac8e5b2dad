"""Back ends that write in a model's place, by their settings."""

from __future__ import annotations

from typing import Any, TypeGuard

from posttrain.config.generation import GeneratorConfig, OpenAIBackEnd, VllmBackEnd
from posttrain.config.model import ModelConfig
from posttrain.extras import require_extra
from posttrain.generation.endpoint import EndpointGenerator
from posttrain.generation.engine import VllmGenerator


def check_back_end(settings: GeneratorConfig) -> None:
    """Refuse a back end that cannot be used here, before anything is begun.

    Raises:
        MissingExtraError: Its package is not installed.
        ConfigError: An endpoint refuses the key, or does not know the model.
        PosttrainError: An endpoint does not answer.
    """
    if isinstance(settings, OpenAIBackEnd):
        EndpointGenerator(settings).check()
    elif isinstance(settings, VllmBackEnd):
        require_extra("vllm", "vllm")


def load_back_end(
    settings: OpenAIBackEnd | VllmBackEnd, model: ModelConfig, tokenizer: Any, *, dtype: str
) -> EndpointGenerator | VllmGenerator:
    """Start a back end.

    Args:
        settings: Which, and how.
        model: What to load, where it does so itself.
        tokenizer: The model's.
        dtype: Of the weights, such as ``bfloat16``.

    Raises:
        PosttrainError: It cannot be started or reached.
    """
    if isinstance(settings, OpenAIBackEnd):
        return EndpointGenerator(settings, tokenizer.decode)
    return VllmGenerator(settings, model, tokenizer, dtype=dtype)


def is_back_end(held: Any) -> TypeGuard[EndpointGenerator | VllmGenerator]:
    """Whether this writes by itself, as against a model of transformers."""
    return isinstance(held, EndpointGenerator | VllmGenerator)
