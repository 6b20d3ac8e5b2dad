"""torch.compile on the small parts that every layer repeats: norms and gated layers.

They are elementwise work around one or two products, which a compiler fuses. Whole layers are left
alone: attention and the output layer have kernels and backward passes of their own here.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

from posttrain.logs import say

_PARTS = ("RMSNorm", "LayerNorm", "MLP")
_TRIAL_TOKENS = 16
# Work from which `auto` compiles: about half an hour on cores without matrix units, ten minutes on
# a GPU. Compiling takes about half a minute, more on a busy machine, and a tenth is won.
_WORTH_FLOPS = {"cpu": 1e14, "cuda": 1e17}


def compile_parts(model: Any, wanted: bool | str, *, device: str, tokens: int) -> bool:
    """Compile the norms and gated layers of a model where that is wanted, and say so.

    Args:
        model: To be trained.
        wanted: As ``compute.compile``; ``auto`` decides by the work that is planned and nothing
            else, so that a resumed run computes as it did before.
        device: Where it will be trained; it is moved there.
        tokens: That training will see.

    Returns:
        Whether parts are compiled. Where that fails they are left as they were.
    """
    if wanted == "auto":
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        whole = trained == sum(p.numel() for p in model.parameters())
        wanted = whole and 6.0 * trained * tokens >= _WORTH_FLOPS.get(device, float("inf"))
    if not wanted:
        return False
    if model.device.type != device:
        model.to(device)
    parts = [m for m in model.modules() if type(m).__name__.endswith(_PARTS)]
    # Of the class, not of each layer: all layers then share one compiled function.
    compiled = {type(m): torch.compile(type(m).forward, dynamic=True) for m in parts}
    for part in parts:
        part.forward = MethodType(compiled[type(part)], part)
    if (problem := _try(model, parts)) is not None:
        for part in parts:
            del part.forward
        say(f"compile: nothing is compiled, it fails here: {problem}")
        return False
    names = ", ".join(sorted({type(m).__name__ for m in parts})) or "nothing to compile"
    say(f"compile: {names} of {len(parts)} places")
    return True


def _try(model: Any, parts: list[Any]) -> str | None:
    """Run one part of each class forward and backward; says in a line what goes wrong."""
    for part in {type(m): m for m in parts}.values():
        weight = next((p for p in part.parameters() if p.ndim), None)
        if weight is None:
            continue
        shape = (1, _TRIAL_TOKENS, weight.shape[-1])
        # No random numbers: training shall draw the same ones with it and without.
        inputs = torch.linspace(-1.0, 1.0, shape[1] * shape[2], device=weight.device).view(shape)
        inputs = inputs.to(weight.dtype).requires_grad_()
        try:
            part(inputs).float().sum().backward()
        except Exception as error:  # whatever compilers, torch and the system raise
            lines = str(error).strip().splitlines()
            return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        finally:
            part.zero_grad(set_to_none=True)
    return None
