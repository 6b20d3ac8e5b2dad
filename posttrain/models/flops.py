"""How many floating point operations a batch needs: the useful ones, of which MFU is a share.

A product of matrices costs 2 operations per weight and token. Backward, the gradient of its input
costs as much again, and that of the weight as much once more where the weight is trained: adapters
on frozen layers save a third. Of the output layer only scored tokens are counted, of attention
only the pairs that see each other. What is computed twice (activation checkpointing, the kernels'
own recomputation), norms, rotations and the softmax are left out.

Letters: S segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.layout import SegmentTable
from posttrain.models.modules import is_linear


@dataclass(frozen=True)
class ModelFlops:
    """What training on one step's worth of each thing costs, forward and backward together.

    Source:
        Chowdhery et al. 2022, arXiv:2204.02311, appendix B, for the definition of MFU.
    """

    per_token: float
    """Of the layers' matrices, per token of the batch."""
    per_scored_token: float
    """Of the output layer and what stands between it and the layers."""
    per_pair: Mapping[int | None, float]
    """Of attention, per pair of tokens that see each other; layers by the distance at which they
    stop to, None where they do not stop."""

    def of_batch(self, table: SegmentTable, scored_tokens: int) -> float:
        """Operations of one packed batch.

        Args:
            table: Its segments.
            scored_tokens: Targets of the batch.
        """
        total = self.per_token * table.total_tokens + self.per_scored_token * scored_tokens
        return total + sum(
            each * count_pairs(table, window) for window, each in self.per_pair.items()
        )


def count_flops(model: Any) -> ModelFlops:
    """Count what training a model costs, from its modules and what of them is trained.

    Args:
        model: A transformers model with its head, adapters and quantization as it will be trained;
            the meta device will do.

    Returns:
        Operations per token, scored token and pair of tokens.
    """
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    config = whole.config.get_text_config()
    layers = {id(module) for module in whole.base_model.modules()}
    per_token = per_scored = 0.0
    for module in model.modules():
        flops = _count_matrix(module) + _count_experts(module, config)
        if id(module) in layers:
            per_token += flops
        else:
            per_scored += flops
    return ModelFlops(per_token, per_scored, _count_attention(config))


def _count_matrix(module: Any) -> float:
    """Operations per token of one linear layer."""
    if not is_linear(module):
        return 0.0
    # By its sides: weights in four bits or shared out over processes have another shape.
    inputs = getattr(module, "in_features", None) or module.nx
    outputs = getattr(module, "out_features", None) or module.nf
    return (6.0 if module.weight.requires_grad else 4.0) * inputs * outputs


def _count_experts(module: Any, config: Any) -> float:
    """Operations per token of a mixture's experts, of which each token meets a few."""
    chosen = getattr(config, "num_experts_per_tok", None)
    stacks = [p for p in module.parameters(recurse=False) if p.ndim == 3] if chosen else []
    return sum((6.0 if p.requires_grad else 4.0) * p.numel() * chosen / len(p) for p in stacks)


def _count_attention(config: Any) -> dict[int | None, float]:
    """Operations per pair: 2 products forward and 4 backward, 2 per channel of every query head."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each = 12.0 * config.num_attention_heads * size
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    local = sum(kind == "sliding_attention" for kind in kinds)
    found: dict[int | None, float] = {None: each * (len(kinds) - local)}
    if local:
        found[config.sliding_window + 1] = each * local
    return found


def count_pairs(table: SegmentTable, window: int | None = None) -> int:
    """Count the pairs of tokens of which one sees the other, itself included.

    Args:
        table: The segments.
        window: Tokens this far apart and further do not see each other; of encoders only, whose
            segments are all roots.
    """
    lengths_S = np.array(table.lengths, dtype=np.int64)
    if table.causal:
        before_S = [
            sum(table.lengths[a] for a in table.ancestors(s)) for s in range(len(lengths_S))
        ]
        return int((lengths_S * (lengths_S + 1) // 2 + lengths_S * before_S).sum())
    reach_S = lengths_S if window is None else np.minimum(lengths_S, window)
    # All pairs less the two corners of the square that are out of reach.
    return int((lengths_S**2 - (lengths_S - reach_S) * (lengths_S - reach_S + 1)).sum())
