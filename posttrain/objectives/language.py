"""Language modelling: learn to predict weighted tokens.

Letters: N scored tokens.
"""

from __future__ import annotations

from torch import Tensor


def weighted_nll(logprobs_N: Tensor, weights_N: Tensor, *, total_weight: Tensor | float) -> Tensor:
    """Negative log-likelihood of one batch's share of a step.

    Adding this over all batches of a step, on all processes, gives the mean loss per unit of
    weight; a step's partial last batches weigh what they hold, no more.

    Args:
        logprobs_N: Log-probability of each target, nats, [N].
        weights_N: Loss weight of each target, [N], not negative.
        total_weight: Sum of the weights over the whole step, all batches and processes; positive.

    Returns:
        A scalar, nats.

    Raises:
        ValueError: The shapes differ.
    """
    if logprobs_N.shape != weights_N.shape:
        raise ValueError(f"shapes differ: {logprobs_N.shape} and {weights_N.shape}")
    return -(logprobs_N * weights_N).sum() / total_weight
