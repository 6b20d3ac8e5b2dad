"""How much memory training needs, estimated before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

# Python, torch, transformers, peft and accelerate, before the first step; see docs/log.md.
_PROCESS_BYTES = 620 * 2**20
# Four bits, an 8-bit scale for every 64 values, and an fp32 scale for every 256 of these.
_NF4_BYTES = 4 / 8 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the fullest moment, by what holds them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    allocator: int
    """What a CPU's allocator leaves between tensors."""
    process: int

    @property
    def total(self) -> int:
        """All together."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of a parameter, on average."""

    frozen: float = 4
    """Of one that is not trained."""
    trained: int = 4
    """Of one that is, and once more of its gradient."""
    optimizer: float = 8
    """What the optimizer keeps of it; AdamW two fp32 values."""


def estimate_memory(
    *, total_parameters: int, trainable_parameters: int, held: WeightBytes, step: Mapping[str, int]
) -> MemoryEstimate:
    """Estimate the peak memory of training on one device.

    Args:
        total_parameters: Of the model with adapters.
        trainable_parameters: Of these.
        held: Bytes of a parameter.
        step: What a step takes besides, of ``runs.rehearsal.rehearse_step``.

    Returns:
        Bytes.
    """
    return MemoryEstimate(
        weights=held.trained * trainable_parameters
        + round(held.frozen * (total_parameters - trainable_parameters)),
        gradients=step["gradients"],
        optimizer=round(held.optimizer * trainable_parameters),
        activations=step["activations"],
        head=step["head"],
        allocator=step["allocator"],
        process=_PROCESS_BYTES,
    )


def weigh_cache(config: Any, answers: int, tokens: int) -> int:
    """Bytes that writing answers side by side takes, fp32, at its last token.

    Keys and values of every layer, those of one layer once more while they grow, and logits with
    what sampling makes of them.

    Args:
        config: The model's transformers config.
        answers: Written at once.
        tokens: Of the longest with its prompt.
    """
    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    layer = 2 * answers * tokens * heads * size
    return 4 * (layer * (text.num_hidden_layers + 1) + 4 * answers * text.vocab_size)


def weigh_frozen(model: Any, *, nf4: bool, bf16: bool) -> float:
    """Bytes of a weight that adapters leave alone, on average.

    Args:
        model: The model without adapters, possibly on the meta device.
        nf4: Whether the layers' weights are held in four bits, as QLoRA does.
        bf16: Whether the others are held in bf16 instead of fp32.

    Returns:
        Bytes per parameter; tied weights count once.
    """
    whole = 2 if bf16 else 4
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    kept = {id(m.weight) for m in ends if m is not None}  # a reward model has no output layer
    sizes = [
        (p.numel(), _NF4_BYTES if nf4 and p.ndim > 1 and id(p) not in kept else whole)
        for p in model.parameters()
    ]
    return math.fsum(n * each for n, each in sizes) / sum(n for n, _ in sizes)
