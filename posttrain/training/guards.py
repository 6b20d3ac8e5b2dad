"""It did really train: checks that stop a run which only looks healthy."""

from __future__ import annotations

import math
from typing import Any

import torch

from posttrain.errors import NonFiniteError, VerificationError
from posttrain.models.lora import count_elements
from posttrain.training.processes import gathered


def check_trainable(model: Any) -> tuple[int, int]:
    """Count parameters and refuse a model without trainable ones.

    Returns:
        Trainable and total parameters; tied weights count once.

    Raises:
        VerificationError: Nothing is trainable.
    """
    trainable, total = count_parameters(model)
    if not trainable:
        raise VerificationError("no parameter of the model is trainable; training would do nothing")
    return trainable, total


def count_parameters(model: Any) -> tuple[int, int]:
    """Count the trainable and all parameters of a model; tied weights count once."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, sum(count_elements(p) for p in model.parameters())


def check_gradients(model: Any, step: int, *, may_vanish: bool = False) -> torch.Tensor:
    """Look at the gradients before they are applied.

    Args:
        model: After the backward pass of a whole step.
        step: Optimizer steps done before this one.
        may_vanish: Whether a first step may rightly teach nothing.

    Returns:
        Norm of the whole gradient, a scalar.

    Raises:
        NonFiniteError: A gradient is NaN or infinite; the weights are untouched.
        VerificationError: There is no gradient; or, in the first step, none different from 0.
    """
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    if not gradients:
        raise VerificationError(f"step {step + 1}: no trainable parameter received a gradient")
    norm = torch.stack([n.float() for n in torch._foreach_norm(gradients)]).norm()
    if not torch.isfinite(norm):
        bad = [n for n, p in model.named_parameters() if _is_bad(p.grad)] or ["all weights"]
        raise NonFiniteError(
            f"step {step + 1}: the gradient of {bad[0]} and {len(bad) - 1} others is not finite; "
            "the update was not applied",
            hint="lower the learning rate, or look at the rows with posttrain inspect",
        )
    if step == 0 and norm == 0 and not may_vanish:
        raise VerificationError(
            "step 1: every gradient is 0; the loss depends on nothing trainable"
        )
    return norm


def check_norm(norm: Any, step: int) -> None:
    """Look at the norm of gradients that cannot be looked at themselves.

    Args:
        norm: Of the whole gradient.
        step: Optimizer steps done before this one.

    Raises:
        NonFiniteError: It is NaN or infinite.
    """
    if not math.isfinite(float(norm)):
        raise NonFiniteError(
            f"step {step + 1}: the norm of the gradient is {float(norm)}",
            hint="lower the learning rate and go on from the last checkpoint",
        )


def _is_bad(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and not bool(torch.isfinite(gradient).all())


class WeightWatch:
    """Remembers a fingerprint of the trainable weights, to prove that they moved.

    Args:
        model: Before training.
    """

    def __init__(self, model: Any) -> None:
        self._before = _fingerprint(model)

    def check_moved(self, model: Any) -> float:
        """Compare with the weights after training.

        Returns:
            Share of trainable tensors that changed, 0 to 1.

        Raises:
            VerificationError: None changed.
        """
        after = _fingerprint(model)
        moved = sum(self._before[name] != value for name, value in after.items())
        if not moved:
            raise VerificationError(
                "training ended and no trainable weight has changed",
                hint="check the learning rate and what is trainable",
            )
        return moved / len(after)


def _fingerprint(model: Any) -> dict[str, tuple[float, float]]:
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with gathered(parameter) as whole:
                values = whole.detach().double()
                found[name] = (float(values.sum()), float(values.norm()))
    return found
