"""Noise on the embeddings of examples in training (NEFTune).

Shapes: B rows (one, where examples are packed), T tokens of a row, H hidden size, S segments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def add_embedding_noise(model: Any, alpha: float) -> None:
    """Disturb the embeddings of examples while the model is in training mode; else nothing happens.

    Noise comes from torch's random state, which checkpoints keep.

    Args:
        model: A causal language model, possibly in adapters.
        alpha: Strength; see ``draw_noise``.
    """
    whole = model.get_base_model() if hasattr(model, "peft_config") else model

    def disturb(module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> Any:
        if not module.training:
            return None
        if args:  # Mamba's way of being called
            inputs = {**inputs, "input_ids": args[0]}
        embedded = module.get_input_embeddings()(inputs["input_ids"])
        noise_BTH = draw_noise(_find_lengths(inputs), embedded.shape[-1], alpha)
        disturbed = {**inputs, "inputs_embeds": embedded + noise_BTH.to(embedded.dtype)}
        return args[1:], {**disturbed, "input_ids": None}

    # Above the layers, not at the embedding: only here is it known where examples begin.
    whole.base_model.register_forward_pre_hook(disturb, with_kwargs=True)


def _find_lengths(inputs: dict[str, Any]) -> Tensor:
    """Tokens of the example that each token belongs to, [B, T]: of packed ones, or of rows."""
    ids_BT = inputs["input_ids"]
    if (table := inputs.get("segments")) is not None:
        lengths_S = torch.tensor(table.lengths, device=ids_BT.device)
        return lengths_S.repeat_interleave(lengths_S)[None]
    mask_BT = inputs.get("attention_mask")
    if mask_BT is None:
        mask_BT = torch.ones_like(ids_BT)
    return mask_BT.sum(1, keepdim=True).expand_as(ids_BT)


def draw_noise(lengths_BT: Tensor, width: int, alpha: float) -> Tensor:
    """Draw noise whose size is by the length of each token's own example, not of the batch.

    Args:
        lengths_BT: Tokens of that example, [B, T].
        width: H.
        alpha: Strength.

    Returns:
        Uniform within alpha / sqrt(length * H), [B, T, H] float32.

    Source:
        Jain et al. 2023, arXiv:2310.05914, Algorithm 1.
    """
    bound_BT1 = alpha / (lengths_BT * width).sqrt()[..., None]
    return (torch.rand(*lengths_BT.shape, width, device=lengths_BT.device) * 2 - 1) * bound_BT1
