"""Rounding to bf16 at random, so that updates below its resolution count on average."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_CUT_BITS = 16  # what bf16 leaves out of fp32


def round_stochastically(values: Tensor, generator: torch.Generator) -> Tensor:
    """Round fp32 values to one of the two bf16 neighbours, the nearer one more often.

    Args:
        values: fp32, any shape.
        generator: On the same device.

    Returns:
        bf16 values of the same shape. Their mean over many roundings is the value itself; what
        bf16 can hold, infinities and NaN come back as they are.

    Source:
        Zamirai et al. 2020, arXiv:2010.06192, section 4.1. Between neighbours the bits of a float
        count evenly, so that adding evenly distributed bits below the cut, then cutting, does it.
    """
    bits = values.contiguous().view(torch.int32)
    # Room for the sum of the two in one buffer: this is as large as the model's largest matrix.
    noise = torch.empty_like(bits).random_(0, 1 << _CUT_BITS, generator=generator)
    rounded = noise.add_(bits).bitwise_and_(-(1 << _CUT_BITS)).view(torch.float32)
    return torch.where(torch.isfinite(values), rounded, values).bfloat16()


def build_generator(device: torch.device, *place: int) -> torch.Generator:
    """Make a source of random bits that depends on a place alone, such as seed, step and weight.

    Being a pure function it needs no state in a checkpoint, is the same in all processes, and
    leaves the draws of dropout alone.

    Args:
        device: Where the bits are wanted.
        place: Numbers.
    """
    digest = hashlib.sha256(repr(place).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
