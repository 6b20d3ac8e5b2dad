"""Reward models: scores whose differences say how often one answer is preferred.

Letters: P pairs.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """Negative log-probability that the chosen answer is preferred.

    Args:
        chosen_P: Rewards of the better answers, [P].
        rejected_P: Rewards of the worse ones, [P].

    Returns:
        Loss per pair, [P], nats; log 2 where the rewards are equal. The caller takes the mean.

    Raises:
        ValueError: The shapes differ.

    Source:
        Bradley and Terry 1952, Biometrika 39; Ouyang et al. 2022, arXiv:2203.02155, Eq. 1.
    """
    if chosen_P.shape != rejected_P.shape:
        raise ValueError(f"shapes differ: {chosen_P.shape} and {rejected_P.shape}")
    return -logsigmoid(chosen_P - rejected_P)
