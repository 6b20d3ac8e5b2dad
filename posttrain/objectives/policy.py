"""Policy gradients: advantages, clipping, distance from the reference.

Letters: N completion tokens of a batch, L tokens of one completion, G completions of one prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards_G: Tensor, *, scale: bool) -> Tensor:
    """Judge the completions of one prompt by each other.

    Args:
        rewards_G: What each is worth, [G].
        scale: Whether to divide by the group's standard deviation.

    Returns:
        Advantages, [G], of mean 0; all 0 where the rewards are equal.

    Raises:
        ValueError: The group has fewer than 2 completions.

    Source:
        Shao et al. 2024, arXiv:2402.03300, section 4.1; without the division: Liu et al. 2025,
        arXiv:2503.20783.
    """
    if len(rewards_G) < 2:
        raise ValueError("a group needs at least 2 completions")
    if bool((rewards_G == rewards_G[0]).all()):  # their mean may be off by a rounding
        return torch.zeros_like(rewards_G)
    centred_G = rewards_G - rewards_G.mean()
    # A hair above 0, for rewards that differ by hardly more than a rounding.
    return centred_G / (rewards_G.std() + 1e-4) if scale else centred_G


def generalized_advantages(
    rewards_L: Tensor, values_L: Tensor, *, gamma: float, gae_lambda: float
) -> Tensor:
    """Estimate the advantage of every token of one finished completion.

    Args:
        rewards_L: Reward that comes with each token, [L].
        values_L: Estimate of the rewards to come, before each token, [L].
        gamma: Discount per token.
        gae_lambda: 1 sums the rewards, 0 takes the next estimate for them.

    Returns:
        Advantages, [L]; added to ``values_L`` they are what the estimates should have been.

    Raises:
        ValueError: The shapes differ.

    Source:
        Schulman et al. 2016, arXiv:1506.02438, Eq. 16.
    """
    if rewards_L.shape != values_L.shape:
        raise ValueError(f"shapes differ: {rewards_L.shape} and {values_L.shape}")
    advantages: list[float] = []
    following = value_after = 0.0
    for reward, value in zip(
        reversed(rewards_L.tolist()), reversed(values_L.tolist()), strict=True
    ):
        surprise = reward + gamma * value_after - value
        following = surprise + gamma * gae_lambda * following
        advantages.append(following)
        value_after = value
    return torch.tensor(advantages[::-1], dtype=rewards_L.dtype)


def clipped_policy_loss(
    logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    advantages_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Tensor]:
    """Policy loss whose gradient stops where a token's probability has moved too far.

    Args:
        logprobs_N: Under the model in training, nats, [N].
        old_logprobs_N: Under the model that wrote the tokens, [N].
        advantages_N: Of each token, [N].
        clip_low: How far the ratio of probabilities may fall below 1.
        clip_high: How far it may rise above 1.

    Returns:
        Loss per token, [N], and whether it was clipped, [N] of 0.0 and 1.0.

    Raises:
        ValueError: The shapes differ.

    Source:
        Schulman et al. 2017, arXiv:1707.06347, Eq. 7; two bounds: Yu et al. 2025,
        arXiv:2503.14476, Eq. 10.
    """
    if not logprobs_N.shape == old_logprobs_N.shape == advantages_N.shape:
        raise ValueError("shapes differ")
    ratio_N = (logprobs_N - old_logprobs_N).exp()
    free_N = ratio_N * advantages_N
    held_N = ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantages_N
    return -torch.minimum(free_N, held_N), (held_N < free_N).float()


def reference_kl(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """Distance of the model in training from the reference, estimated at sampled tokens.

    Args:
        logprobs_N: Under the model in training, nats, [N].
        reference_logprobs_N: Under the reference, [N].

    Returns:
        Estimate per token, [N], never negative, of the right mean where the model in training
        wrote the tokens.

    Source:
        Schulman 2020, "Approximating KL divergence", estimator k3.
    """
    difference_N = reference_logprobs_N - logprobs_N
    return difference_N.exp() - 1 - difference_N


def clipped_value_loss(
    values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, *, clip: float
) -> Tensor:
    """Squared error of the value head, the worse of moved freely and held near the old estimate.

    Args:
        values_N: Estimates of the model in training, [N].
        old_values_N: Estimates when the completions were written, [N].
        returns_N: What they should have been, [N].
        clip: How far an estimate may move.

    Returns:
        Loss per token, [N].

    Source:
        Schulman et al. 2017 with the clipping of OpenAI's baselines (ppo2).
    """
    held_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_N - returns_N) ** 2, (held_N - returns_N) ** 2)
