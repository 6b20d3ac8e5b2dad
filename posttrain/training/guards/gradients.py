"""Gradients before they are applied: all numbers are finite, and each trained tensor has one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from posttrain.errors import VerificationError
from posttrain.training.guards.rollback import SpoiltStepError
from posttrain.training.processes import gathered

Rows = Callable[[], Sequence[str]]


def check_gradients(
    model: Any, step: int, *, may_vanish: bool = False, rows: Rows = list
) -> torch.Tensor:
    """Look at the gradients before they are applied.

    Args:
        model: After the backward pass of a whole step.
        step: Optimizer steps done before this one.
        may_vanish: Whether a first step may rightly teach nothing.
        rows: Tells where the step's rows were read.

    Returns:
        Norm of the whole gradient, a scalar.

    Raises:
        SpoiltStepError: A gradient is NaN or infinite; the weights are untouched.
        VerificationError: There is no gradient; or, in the first step, none different from 0.
    """
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    if not gradients:
        raise VerificationError(f"step {step + 1}: no trainable parameter received a gradient")
    norm = torch.stack([n.float() for n in torch._foreach_norm(gradients)]).norm()
    if not torch.isfinite(norm):
        bad = [n for n, p in model.named_parameters() if _is_bad(p.grad)] or ["all weights"]
        raise SpoiltStepError(
            step + 1,
            f"the gradient of {bad[0]} and {len(bad) - 1} others is not finite; "
            "the update was not applied",
            rows(),
        )
    if step == 0 and norm == 0 and not may_vanish:
        raise VerificationError(
            "step 1: every gradient is 0; the loss depends on nothing trainable"
        )
    return norm


def check_norm(norm: Any, step: int, rows: Rows = list) -> None:
    """Look at the norm of gradients that cannot be looked at themselves.

    Args:
        norm: Of the whole gradient.
        step: Optimizer steps done before this one.
        rows: Tells where the step's rows were read.

    Raises:
        SpoiltStepError: It is NaN or infinite.
    """
    if not math.isfinite(float(norm)):
        raise SpoiltStepError(
            step + 1,
            f"the norm of the gradient is {float(norm)}",
            rows(),
            hint="lower the learning rate and go on from the last checkpoint",
        )


def _is_bad(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and not bool(torch.isfinite(gradient).all())


def check_reached(model: Any, step: int, excepted: Sequence[str] = ()) -> None:
    """Refuse a trainable tensor whose gradient is 0 or absent, where there is no reason for it.

    Args:
        model: After the backward pass of a whole step that teaches something.
        step: Optimizer steps done before this one.
        excepted: Parts of names that the recipe lets go without.

    Raises:
        VerificationError: Names them.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    given = [(n, p.grad) for n, p in named if p.grad is not None]
    norms = torch.stack([n.float() for n in torch._foreach_norm([g for _, g in given])]).tolist()
    reached = {name for (name, _), norm in zip(given, norms, strict=True) if norm}
    unreached = [name for name, _ in named if name not in reached]
    unexplained = [name for name in unreached if not _is_explained(name, model, excepted)]
    if unexplained:
        raise VerificationError(
            f"step {step + 1}: {unexplained[0]} and {len(unexplained) - 1} other trainable weights "
            "have no gradient; the loss does not depend on them",
            hint="freeze them, or name them in without_gradient if that is right",
        )


def _is_explained(name: str, model: Any, excepted: Sequence[str]) -> bool:
    if _may_go_without(name, excepted):
        return True
    # A bias behind the layers adds the same to both rewards of a pair.
    if hasattr(model, "score") and name.endswith(".bias") and not _IN_A_LAYER.search(name):
        return True
    # One matrix of an adapter learns nothing while the other one is 0.
    partner = name.replace("lora_A", "lora_B").replace("lora_embedding_B", "lora_embedding_A")
    return partner != name and not model.get_parameter(partner).any()


_IN_A_LAYER = re.compile(r"\.\d+\.")


def _may_go_without(name: str, excepted: Sequence[str]) -> bool:
    return any(part in name for part in excepted) or bool(_WITHOUT_REASON_TO.search(name))


# - an expert of a mixture, its router: no token of a step may be sent to it, and with one expert
#   for each token the router's weight is always 1
# - a bias of keys: it adds the same to all of a query's scores, where positions do not turn it
# - the value head: while nothing is rewarded its 0 is right
# - rows of an embedding trained by themselves: the step may hold none of these tokens
_WITHOUT_REASON_TO = re.compile(
    r"\.experts\.|\.router\.|\.gate\.weight$|(k_proj|key)\.bias$|value_head\.|trainable_tokens_"
)


def check_adapters_moved(model: Any, step: int, excepted: Sequence[str] = ()) -> None:
    """Refuse adapters of which a matrix is still 0 after steps that should have moved it.

    Args:
        model: With or without adapters.
        step: Optimizer steps done.
        excepted: Parts of names that the recipe lets go without a gradient.

    Raises:
        VerificationError: Names them.
    """
    still = []
    for name, parameter in model.named_parameters():
        began_at_0 = "lora_B" in name or "lora_embedding_A" in name  # of embeddings it is the first
        if began_at_0 and parameter.requires_grad and not _may_go_without(name, excepted):
            with gathered(parameter) as whole:
                if not whole.detach().any():
                    still.append(name)
    if still:
        raise VerificationError(
            f"step {step}: the adapter weight {still[0]} and {len(still) - 1} others are still 0; "
            "the adapters do not learn",
            hint="check the learning rate and lora.targets",
        )
