"""Teach an encoder of transformers to score its masked tokens only, leaving its code alone.

Two wrappers do it, as in ``packed``: around the layers, of whose hidden states only those at the
scored positions go on to the head, and around the output layer, which returns log-probability,
entropy and top-1 correctness instead of logits.
"""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.errors import ConfigError
from posttrain.models.head import score_tokens
from posttrain.models.output_layer import Form, read_layer
from posttrain.models.packed import TokenScores, model_inputs
from posttrain.models.packing import is_encoder
from posttrain.models.padded import score_rows, takes_rows


def check_encoder(config: Any, tokenizer: Any, name: str) -> None:
    """Refuse what masked language modelling cannot be done with.

    Args:
        config: The model's transformers config.
        tokenizer: Its tokenizer.
        name: What the user calls the model.

    Raises:
        ConfigError: The model is no encoder, or the tokenizer has no mask token.
    """
    if not is_encoder(config):
        raise ConfigError(
            f"model {name}: {config.model_type} is no encoder with a masked language head",
            hint="use `stage: pretrain` for it, or an encoder such as answerdotai/ModernBERT-base",
        )
    if tokenizer.mask_token_id is None:
        raise ConfigError(
            f"model {name}: its tokenizer has no mask token",
            hint="set mask_token in its tokenizer_config.json",
        )


def prepare_masked(model: Any) -> None:
    """Install the two wrappers on a ``...ForMaskedLM`` (before adapters are added around it).

    Raises:
        ConfigError: The model has no output layer of its own to score with.
    """
    layers, head = model.base_model, model.get_output_embeddings()
    if head is None or layers is model:
        raise ConfigError(
            f"{type(model).__name__} has no output layer that can be asked for single tokens",
            hint="choose BERT, ModernBERT or their like",
        )
    request: dict[str, Any] = {}
    model_forward, layers_forward = model.forward, layers.forward
    head_forward = type(head).forward

    @functools.wraps(model_forward)
    def take_request(*args: Any, **kwargs: Any) -> Any:
        request.clear()  # of a call that failed on its way to the head
        if "score_positions" not in kwargs:
            return model_forward(*args, **kwargs)
        if takes_rows(model):
            return score_rows(model_forward, kwargs, request)
        request["places"] = (0, kwargs.pop("score_positions"))
        request["targets"] = kwargs.pop("score_targets")
        request["upstream"] = kwargs.pop("score_upstream", None)
        return model_forward(*args, **kwargs)

    @functools.wraps(layers_forward)
    def keep_scored(*args: Any, **kwargs: Any) -> Any:
        output = layers_forward(*args, **kwargs)
        if (places := request.pop("places", None)) is not None:
            output.last_hidden_state = output.last_hidden_state[places][None]
        return output

    def score(self: Any, hidden: Tensor) -> Tensor:
        if (targets_N := request.pop("targets", None)) is None:
            return head_forward(self, hidden)  # of this very layer: adapters may train a copy
        layer = read_layer(self, hidden[0], Form())
        scores = score_tokens(hidden[0], layer, targets_N, request.pop("upstream", None))
        return torch.stack(scores, dim=-1)[None]

    model.forward, layers.forward = take_request, keep_scored
    head.forward = MethodType(score, head)


def score_masked(model: nn.Module, batch: dict[str, Any]) -> TokenScores:
    """Score the masked tokens of a batch.

    Args:
        model: Prepared by ``prepare_masked``, possibly wrapped for adapters or several processes.
        batch: As ``layout.build_batch`` makes it, as tensors; ``score_positions`` are those of the
            masked tokens themselves.

    Returns:
        Scores of the batch's N scored tokens.
    """
    scores_N3 = model(**model_inputs(batch)).logits[0]
    return TokenScores(*scores_N3.unbind(-1))
