"""How much memory training needs, estimated before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

# Python, torch and transformers themselves, resident, measured on Linux with CPU wheels.
_PROCESS_BYTES = 550 * 2**20
# Logits of one chunk of the head: the chunk itself, its softmax and its gradient, fp32.
_HEAD_BYTES = 3 * 16 * 2**20 * 4
# Four bits, an 8-bit scale for every 64 values, and an fp32 scale for every 256 of these.
_NF4_BYTES = 4 / 8 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by what holds them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    process: int

    @property
    def total(self) -> int:
        """All together."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations)
        return sum(parts) + self.head + self.process


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
    config: Any,
    *,
    total_parameters: int,
    trainable_parameters: int,
    held: WeightBytes,
    batch_tokens: int,
    activation_checkpointing: bool,
) -> MemoryEstimate:
    """Estimate the peak memory of training on one device.

    Activations are counted from the tensors a transformer layer keeps for its backward pass; bf16
    halves about half of them, which is left out: the estimate errs on the high side.

    Args:
        config: The model's transformers config.
        total_parameters: Of the model with adapters.
        trainable_parameters: Of these.
        held: Bytes of a parameter.
        batch_tokens: Tokens in one batch.
        activation_checkpointing: Whether only layer inputs are kept.

    Returns:
        Bytes.
    """
    text = config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    inner = getattr(text, "intermediate_size", None) or 4 * hidden  # GPT-2 and its like say none
    size = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    queries = text.num_attention_heads * size
    keys = 2 * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * size
    # Norm inputs and outputs, residuals; queries and keys before and after norm, rotation and
    # gathering; the four inner tensors of a gated MLP.
    per_layer = 6 * hidden + 6 * queries + 5 * keys + 4 * inner
    kept_layers = 1 if activation_checkpointing else layers
    per_token = per_layer * kept_layers + (hidden * layers if activation_checkpointing else 0)
    vocabulary_rows = min(batch_tokens, 16 * 2**20 // text.vocab_size)
    return MemoryEstimate(
        weights=held.trained * trainable_parameters
        + round(held.frozen * (total_parameters - trainable_parameters)),
        gradients=held.trained * trainable_parameters,
        optimizer=round(held.optimizer * trainable_parameters),
        activations=4 * batch_tokens * per_token,
        head=min(_HEAD_BYTES, 3 * 4 * vocabulary_rows * text.vocab_size),
        process=_PROCESS_BYTES,
    )


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
