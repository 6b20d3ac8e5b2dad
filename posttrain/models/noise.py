"""Noise on the embeddings of packed examples in training (NEFTune).

Shapes: T tokens of the batch, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posttrain.errors import ConfigError
from posttrain.layout import SegmentTable
from posttrain.models.padded import takes_rows


def add_embedding_noise(model: Any, alpha: float) -> None:
    """Disturb the embeddings of every packed batch while the model is in training mode.

    Plain calls and evaluation stay as they are. Noise comes from torch's random state, which
    checkpoints keep.

    Args:
        model: A causal language model, possibly in adapters.
        alpha: Strength; see ``draw_noise``.

    Raises:
        ConfigError: The model takes its batches in padded rows, where nothing would be disturbed.
    """
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    if takes_rows(whole):
        raise ConfigError(
            "neftune_alpha: noise is for packed batches, and this model trains in padded rows",
            hint="set neftune_alpha=0",
        )

    def disturb(module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> Any:
        if not module.training or inputs.get("segments") is None:
            return None
        embedded = module.get_input_embeddings()(inputs["input_ids"])
        noise_TH = draw_noise(inputs["segments"], embedded.shape[-1], alpha, embedded.device)
        disturbed = embedded + noise_TH.to(embedded.dtype)
        return args, {**inputs, "input_ids": None, "inputs_embeds": disturbed}

    # Above the layers, not at the embedding: only here is it known where examples begin.
    whole.base_model.register_forward_pre_hook(disturb, with_kwargs=True)


def draw_noise(table: SegmentTable, width: int, alpha: float, device: Any) -> Tensor:
    """Draw noise whose size is by the length of each token's own example, not of the batch.

    Args:
        table: Where the examples of the batch lie.
        width: H.
        alpha: Strength.
        device: Where to draw.

    Returns:
        Uniform within alpha / sqrt(length of the segment * H), [T, H] float32.

    Source:
        Jain et al. 2023, arXiv:2310.05914, Algorithm 1.
    """
    lengths_S = torch.tensor(table.lengths, device=device)
    lengths_T = lengths_S.repeat_interleave(lengths_S)
    bound_T1 = alpha / (lengths_T * width).sqrt()[:, None]
    return (torch.rand(len(lengths_T), width, device=device) * 2 - 1) * bound_T1
