"""Learning from pairs of a better and a worse answer: direct preference optimization and its kin.

Letters: P pairs.

A margin is log p(chosen) - log p(rejected), in nats.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo_loss(
    policy_margin_P: Tensor,
    reference_margin_P: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Direct preference optimization loss, one value per pair.

    Args:
        policy_margin_P: Under the model in training, [P].
        reference_margin_P: Under the frozen reference, [P].
        beta: Pull toward the reference, per nat; larger stays closer.
        label_smoothing: Assumed share of pairs whose order is wrong, 0 to below 0.5.

    Returns:
        Loss per pair, [P], positive; log 2 where the margins agree. The caller takes the mean.

    Raises:
        ValueError: beta is not positive, label_smoothing out of range, or the shapes differ.

    Source:
        Rafailov et al. 2023, arXiv:2305.18290, Eq. 7; smoothing: Mitchell 2023, "A note on DPO
        with noisy preferences and relationship to IPO", Eq. 3.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}")
    logits_P = beta * _gain(policy_margin_P, reference_margin_P, beta)
    right_P = -logsigmoid(logits_P)
    return (1 - label_smoothing) * right_P - label_smoothing * logsigmoid(-logits_P)


def hinge_loss(policy_margin_P: Tensor, reference_margin_P: Tensor, *, beta: float) -> Tensor:
    """Hinge in the place of DPO's logistic loss: pairs that are far enough apart teach no more.

    Args:
        policy_margin_P: Under the model in training, [P].
        reference_margin_P: Under the frozen reference, [P].
        beta: Scale of the margins, per nat.

    Returns:
        Loss per pair, [P], not negative; 1 where the margins agree.

    Raises:
        ValueError: beta is not positive, or the shapes differ.

    Source:
        Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425, Eq. 1; on log-ratios as Liu et al. 2023
        (RSO), arXiv:2309.06657, section 3.
    """
    return (1 - beta * _gain(policy_margin_P, reference_margin_P, beta)).relu()


def ipo_loss(policy_margin_P: Tensor, reference_margin_P: Tensor, *, beta: float) -> Tensor:
    """Identity preference optimization: the margin's growth is drawn to 1 / (2 beta).

    Args:
        policy_margin_P: Under the model in training, of log-probabilities **per token**, [P];
            sums would let long answers rule the squared loss.
        reference_margin_P: The same under the frozen reference, [P].
        beta: The paper's tau, per nat.

    Returns:
        Loss per pair, [P], nats squared.

    Raises:
        ValueError: beta is not positive, or the shapes differ.

    Source:
        Azar et al. 2023, arXiv:2310.12036, Eq. 17.
    """
    return (_gain(policy_margin_P, reference_margin_P, beta) - 1 / (2 * beta)) ** 2


def _gain(policy_margin_P: Tensor, reference_margin_P: Tensor, beta: float) -> Tensor:
    if beta <= 0:
        raise ValueError(f"beta is {beta}; it must be positive")
    if policy_margin_P.shape != reference_margin_P.shape:
        raise ValueError(f"shapes differ: {policy_margin_P.shape} and {reference_margin_P.shape}")
    return policy_margin_P - reference_margin_P
