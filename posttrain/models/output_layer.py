"""What a model's hidden states go through to become logits, adapters included.

Letters: N scored tokens, E hidden size, V vocabulary, R rank of an adapter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from posttrain.errors import ConfigError
from posttrain.models.head import OutputLayer

# What some architectures do to logits behind their output layer, and what does nothing there.
_NEUTRAL = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
# Those whose code does with it what ``read_form`` says; tests compare each.
_KNOWN = ("cohere", "cohere2", "gemma2", "granite")


def check_scorable(config: Any) -> None:
    """Refuse architectures that change logits in ways that are not known.

    Args:
        config: The model's transformers config.

    Raises:
        ConfigError: The logits are not what the output layer gives.
    """
    text = config.get_text_config()
    if text.model_type in _KNOWN:
        return
    for field in _NEUTRAL:
        if getattr(text, field, None) not in (None, 1, 1.0):
            raise ConfigError(
                f"model type {text.model_type}: `{field}` changes logits after the output layer",
                hint="this model cannot be trained here yet",
            )


@contextlib.contextmanager
def plain_logits(model: Any) -> Iterator[None]:
    """Let a model's code leave alone what its output layer returns, which is no logits."""
    owners = (model, model.config.get_text_config())
    before = [(o, n, getattr(o, n)) for o in owners for n in _NEUTRAL if hasattr(o, n)]
    try:
        for owner, name, _ in before:
            setattr(owner, name, _NEUTRAL[name])
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


class Form(NamedTuple):
    """What a model does to the products of its output layer."""

    scale: float = 1.0
    """They are multiplied by it."""
    cap: float | None = None
    """They are bent to stay below it."""


def read_form(config: Any) -> Form:
    """Read from a model's config what it does to the products of its output layer."""
    text = config.get_text_config()
    divisor = getattr(text, "logits_scaling", None) or 1.0
    scale = getattr(text, "logit_scale", None) or 1.0 / divisor
    return Form(scale, getattr(text, "final_logit_softcapping", None))


def read_layer(module: Any, hidden_NE: Tensor, form: Form, temperature: float = 1.0) -> OutputLayer:
    """Describe an output layer for hidden states.

    Args:
        module: The layer, or peft's LoRA layer around it.
        hidden_NE: What goes through it; an adapter's first matrix is applied here.
        form: Of the model.
        temperature: What logits are divided by.

    Raises:
        ConfigError: Its adapter is of a kind that is not known.
    """
    names = [] if _is_plain(module) else [n for n in module.active_adapters if n in module.lora_A]
    lowered, raising = [], []
    for name in names:
        first, second = module.lora_A[name], module.lora_B[name]
        if name in module.lora_variant or second.bias is not None:
            raise ConfigError(
                "lora.targets: only plain LoRA can be on the output layer",
                hint="leave the output layer out, or use plain LoRA without biases",
            )
        dropped_NE = module.lora_dropout[name](hidden_NE.to(first.weight.dtype))
        lowered.append(first(dropped_NE) * module.scaling[name])
        raising.append(second.weight)
    return OutputLayer(
        module.weight,
        getattr(module, "bias", None),
        torch.cat(lowered, dim=-1) if names else None,
        torch.cat(raising, dim=-1) if names else None,
        form.scale,
        form.cap,
        temperature,
    )


def _is_plain(module: Any) -> bool:
    return not hasattr(module, "lora_A") or module.disable_adapters or module.merged
