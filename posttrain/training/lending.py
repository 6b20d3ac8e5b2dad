"""A model in training is lent to what only looks at it, and comes back as it was."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from posttrain.models.padded import takes_rows


@contextlib.contextmanager
def lend(model: Any, *, writing: bool) -> Iterator[None]:
    """Put a model in training into evaluation mode, without gradients, inside the block.

    Afterwards the mode of every module, its attention, and all random states are as before, so that
    training goes on as if nothing had been measured.

    Args:
        model: Prepared for training, perhaps with an adapter around it.
        writing: Whether it shall write, with plain attention and a cache; else it keeps the packed
            attention that scores texts.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    attention = inner.config._attn_implementation
    modes = [(module, module.training) for module in model.modules()]
    swaps = writing and not takes_rows(inner)
    with _random_states(model.device), _without_compiled_parts(), torch.no_grad():
        if swaps:
            inner.set_attn_implementation("sdpa")
        model.eval()
        try:
            yield
        finally:
            if swaps:
                inner.set_attn_implementation(attention)
            for module, training in modes:
                module.training = training


@contextlib.contextmanager
def _random_states(device: torch.device) -> Iterator[None]:
    """Set back the states of Python, numpy and torch at the end of the block."""
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


def _without_compiled_parts() -> contextlib.AbstractContextManager[Any]:
    """Run compiled parts as they were written.

    Each other shape and mode would be compiled anew, and beyond a few of them torch gives up and
    trains on without.
    """
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
