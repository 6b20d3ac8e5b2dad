"""Teach a causal model of transformers to take a packed batch, leaving its code alone.

Two wrappers do it. Around the model's forward, the positions to score are handed to the model's
own ``logits_to_keep``, so only their hidden states reach the output layer. The output layer's
forward then returns, for each of them, log-probability, entropy and top-1 correctness instead of
logits. Both run inside the model's forward call, where sharding hooks have gathered the weights.
"""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from posttrain.errors import ConfigError
from posttrain.models.head import score_tokens
from posttrain.models.output_layer import plain_logits, read_form, read_layer
from posttrain.models.padded import score_rows, takes_rows


class TokenScores(NamedTuple):
    """What a model says of the scored tokens; each [N] float32."""

    logprobs_N: Tensor
    entropy_N: Tensor
    correct_N: Tensor
    values_N: Tensor | None = None
    """Of the value head, where the model has one."""


def prepare_packed(model: nn.Module, value_head: nn.Module | None = None) -> None:
    """Install the two wrappers on a causal language model (before adapters are added around it).

    Args:
        model: A transformers ``...ForCausalLM``, with one of our attention back ends to take the
            batch as it is, or with its own to take it in padded rows (``models.padded``).
        value_head: Reads an estimate of the reward to come off the hidden state that predicts a
            scored token; [N, hidden size] -> [N, 1], fp32.

    Raises:
        ConfigError: The model has no output layer.
    """
    if (head := model.get_output_embeddings()) is None:
        raise ConfigError(f"{type(model).__name__} has no output layer to score tokens with")
    request: dict[str, Any] = {}
    model_forward, form = model.forward, read_form(model.config)

    # Not a module hook: peft before 0.21 calls the model's `forward`, which passes hooks by.
    @functools.wraps(model_forward)
    def take_request(*args: Any, **kwargs: Any) -> Any:
        request.clear()  # of a call that failed on its way to the head
        if "score_positions" not in kwargs:
            return model_forward(*args, **kwargs)
        # By now there may be an adapter around it, whose forward would add to our scores.
        outer = model.get_output_embeddings()
        if hasattr(outer, "lora_A") and "forward" not in vars(outer):
            outer.forward = MethodType(score, outer)
        with plain_logits(model):
            request["temperature"] = kwargs.pop("score_temperature", 1.0)
            if takes_rows(model):
                return score_rows(model_forward, kwargs, request)
            kwargs["logits_to_keep"] = kwargs.pop("score_positions")
            request["targets"] = kwargs.pop("score_targets")
            request["upstream"] = kwargs.pop("score_upstream", None)
            # A cache makes transformers drop the packed mask: documents would see each other.
            return model_forward(*args, **{**kwargs, "use_cache": False})

    def score(self: nn.Module, hidden: Tensor) -> Tensor:
        if (targets_N := request.pop("targets", None)) is None:
            # Of this very layer: adapters may train a copy, or lie around it.
            return type(self).forward(self, hidden)
        if (places := request.pop("places", None)) is not None:
            hidden = hidden[places][None]
        layer = read_layer(self, hidden[0], form, request["temperature"])
        upstream_N = request.pop("upstream")
        columns: tuple[Tensor, ...] = score_tokens(hidden[0], layer, targets_N, upstream_N)
        if value_head is not None:
            with torch.autocast(hidden.device.type, enabled=False):
                columns = (*columns, value_head(hidden[0].float())[:, 0])
        return torch.stack(columns, dim=-1)[None]

    model.forward = take_request
    head.forward = MethodType(score, head)


_MODEL_INPUTS = ("input_ids", "position_ids", "segments", "score_positions", "score_targets")
"""Of a batch, what a prepared model is called with; and ``score_upstream`` where it is known."""


def model_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """Take from a batch what a prepared model is called with."""
    names = [*_MODEL_INPUTS, *(["score_upstream"] if "score_upstream" in batch else [])]
    return {name: batch[name] for name in names}


def score_batch(
    model: nn.Module, batch: dict[str, Any], *, temperature: float = 1.0
) -> TokenScores:
    """Run a packed batch through a prepared model.

    Args:
        model: Prepared by ``prepare_packed``, possibly wrapped for adapters or several processes.
        batch: As ``layout.build_batch`` makes it, as tensors; of what else it holds only
            ``score_upstream``, the ``upstream_N`` of ``head.score_tokens``.
        temperature: What logits are divided by, as in sampling.

    Returns:
        Scores of the batch's N scored tokens.
    """
    inputs = model_inputs(batch)
    columns_NC = model(**inputs, score_temperature=temperature).logits[0]
    return TokenScores(*columns_NC.unbind(-1))
