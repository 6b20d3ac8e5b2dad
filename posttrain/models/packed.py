"""Teach a causal model of transformers to take a packed batch, leaving its code alone.

Two wrappers do it. Around the model's forward, the positions to score are handed to the model's
own ``logits_to_keep``, so only their hidden states reach the output layer. The output layer's
forward then returns, for each of them, log-probability, entropy and top-1 correctness instead of
logits. Both run inside the model's forward call, where sharding hooks have gathered the weights.
"""

from __future__ import annotations

import functools
import inspect
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from posttrain.errors import ConfigError
from posttrain.models.head import score_tokens


class TokenScores(NamedTuple):
    """What a model says of the scored tokens; each [N] float32."""

    logprobs_N: Tensor
    entropy_N: Tensor
    correct_N: Tensor
    values_N: Tensor | None = None
    """Of the value head, where the model has one."""


def check_packable(config: Any) -> None:
    """Refuse architectures that a packed batch would change.

    Args:
        config: The model's transformers config.

    Raises:
        ConfigError: Layers carry state from token to token, attend within a window, or the
            logits are changed after the output layer.
    """
    text = config.get_text_config()
    name = text.model_type
    layer_types = set(getattr(text, "layer_types", None) or ["full_attention"])
    if foreign := layer_types - {"full_attention"}:
        raise ConfigError(
            f"model type {name}: its layers ({', '.join(sorted(foreign))}) would carry state or "
            "windows across packed examples",
            hint="choose a model with full attention in every layer",
        )
    if getattr(text, "use_sliding_window", False) or (
        getattr(text, "sliding_window", None) and getattr(text, "layer_types", None) is None
    ):
        raise ConfigError(
            f"model type {name}: sliding-window attention is not supported in packed batches",
            hint="choose a model with full attention in every layer",
        )
    for field in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(text, field, None) not in (None, 1, 1.0):
            raise ConfigError(
                f"model type {name}: `{field}` changes logits after the output layer",
                hint="this model cannot be trained here yet",
            )


def prepare_packed(model: nn.Module, value_head: nn.Module | None = None) -> None:
    """Install the two wrappers on a causal language model (before adapters are added around it).

    Args:
        model: A transformers ``...ForCausalLM`` with one of our attention back ends.
        value_head: Reads an estimate of the reward to come off the hidden state that predicts a
            scored token; [N, hidden size] -> [N, 1], fp32.

    Raises:
        ConfigError: The model cannot score chosen positions, or would not ask our back end.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise ConfigError(
            f"{type(model).__name__} has attention code of its own: packed examples would mix",
            hint="choose a model whose attention transformers can exchange",
        )
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise ConfigError(f"{type(model).__name__} cannot score chosen positions only")
    head = model.get_output_embeddings()
    request: dict[str, Any] = {}
    model_forward, head_forward = model.forward, type(head).forward

    # Not a module hook: peft before 0.21 calls the model's `forward`, which passes hooks by.
    @functools.wraps(model_forward)
    def take_request(*args: Any, **kwargs: Any) -> Any:
        request.clear()  # of a call that failed on its way to the head
        if "score_positions" in kwargs:
            kwargs["logits_to_keep"] = kwargs.pop("score_positions")
            request["targets"] = kwargs.pop("score_targets")
            request["temperature"] = kwargs.pop("score_temperature", 1.0)
            # A cache makes transformers drop the packed mask: documents would see each other.
            kwargs["use_cache"] = False
        return model_forward(*args, **kwargs)

    def score(self: nn.Module, hidden: Tensor) -> Tensor:
        targets_N = request.pop("targets", None)
        if targets_N is None:
            return head_forward(self, hidden)  # of this very layer: adapters may train a copy
        weight, bias = _weights(self)
        cooled = hidden[0]
        if (temperature := request["temperature"]) != 1.0:
            cooled, bias = cooled / temperature, None if bias is None else bias / temperature
        columns: tuple[Tensor, ...] = score_tokens(cooled, weight, bias, targets_N)
        if value_head is not None:
            with torch.autocast(hidden.device.type, enabled=False):
                columns = (*columns, value_head(hidden[0].float())[:, 0])
        return torch.stack(columns, dim=-1)[None]

    model.forward = take_request
    head.forward = MethodType(score, head)


_MODEL_INPUTS = ("input_ids", "position_ids", "segments", "score_positions", "score_targets")


def _weights(head: nn.Module) -> tuple[Tensor, Tensor | None]:
    return head.weight, getattr(head, "bias", None)


def score_batch(
    model: nn.Module, batch: dict[str, Any], *, temperature: float = 1.0
) -> TokenScores:
    """Run a packed batch through a prepared model.

    Args:
        model: Prepared by ``prepare_packed``, possibly wrapped for adapters or several processes.
        batch: As ``layout.build_batch`` makes it, as tensors; what else it holds is not used.
        temperature: What logits are divided by, as in sampling.

    Returns:
        Scores of the batch's N scored tokens.
    """
    inputs = {name: batch[name] for name in _MODEL_INPUTS}
    columns_NC = model(**inputs, score_temperature=temperature).logits[0]
    return TokenScores(*columns_NC.unbind(-1))
