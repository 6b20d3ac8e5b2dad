"""GRPO and PPO as the trainer sees them: the objective of a batch, and a round's advantages.

Letters: N completion tokens of a batch, L tokens of one completion, G completions of one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from posttrain.config.train import GrpoStage, PpoStage
from posttrain.models.packed import score_batch
from posttrain.objectives.policy import (
    clipped_policy_loss,
    clipped_value_loss,
    generalized_advantages,
    group_advantages,
    reference_kl,
)
from posttrain.training.objective import BatchResult
from posttrain.training.rollouts import Sample


class PolicyObjective:
    """Clipped policy gradient, mean over all tokens of a step; with a value head, its loss too.

    Args:
        stage: Clipping and weights.
    """

    def __init__(self, stage: GrpoStage | PpoStage) -> None:
        self.stage = stage

    def weigh(self, batch: dict[str, Any]) -> Tensor:
        """Completion tokens."""
        weight: Tensor = batch["score_weights"].sum()
        return weight

    def measure(self, model: Any, batch: dict[str, Any], total_weight: Tensor) -> BatchResult:
        """Score every completion token."""
        stage = self.stage
        scores = score_batch(model, batch, temperature=stage.temperature)
        logprobs_N = scores.logprobs_N
        # Written by this very model, where a round is used for one update.
        old_N = batch.get("old_logprobs_N", logprobs_N.detach())
        policy_N, clipped_N = clipped_policy_loss(
            logprobs_N,
            old_N,
            batch["advantages_N"],
            clip_low=stage.clip_low,
            clip_high=stage.clip_high,
        )
        loss_N = policy_N
        sums = {
            "entropy": scores.entropy_N.detach().sum(),
            "clipped_share": clipped_N.sum(),
            "policy_kl": (old_N - logprobs_N.detach()).sum(),
        }
        if "sampler_logprobs_N" in batch:
            sums["sampler_gap"] = (old_N - batch["sampler_logprobs_N"]).abs().sum()
        if "reference_logprobs_N" in batch:
            kl_N = reference_kl(logprobs_N, batch["reference_logprobs_N"])
            sums["reference_kl"] = kl_N.detach().sum()
            # PPO has it in its rewards already.
            if isinstance(stage, GrpoStage):
                loss_N = loss_N + stage.kl_weight * kl_N
        if isinstance(stage, PpoStage) and scores.values_N is not None:
            value_N = clipped_value_loss(
                scores.values_N, batch["old_values_N"], batch["returns_N"], clip=stage.value_clip
            )
            sums["value_loss"] = value_N.detach().sum()
            loss_N = loss_N + stage.value_weight * value_N
        return BatchResult(loss_N.sum() / total_weight, sums, self.weigh(batch))


def set_group_advantages(samples: Sequence[Sample], stage: GrpoStage) -> dict[str, float]:
    """GRPO: every token of an answer gets the answer's advantage within its group.

    Returns:
        Share of groups whose answers are all worth the same, which teach nothing.
    """
    equal = groups = 0
    for _, group in groupby(samples, key=lambda sample: sample.group):
        members = list(group)
        rewards_G = torch.tensor([sample.reward for sample in members])
        advantages_G = group_advantages(rewards_G, scale=stage.scale == "group")
        groups += 1
        equal += bool(rewards_G.max() == rewards_G.min())
        for sample, advantage in zip(members, advantages_G, strict=True):
            sample.advantages_L = advantage.expand(len(sample.token_ids))
    return {"equal_groups": equal / groups}


def set_estimated_advantages(samples: Sequence[Sample], stage: PpoStage) -> dict[str, float]:
    """PPO: advantages from the value head's estimates, made comparable over the whole round.

    The reward comes with an answer's last token; the distance from the reference, where it has a
    weight, with every token.

    Returns:
        Share of the returns' variance that the value head explains; below 0 where it is worse
        than their mean.
    """
    for sample in samples:
        assert sample.old_values_L is not None
        rewards_L = torch.zeros(len(sample.token_ids))
        if sample.reference_logprobs_L is not None and sample.old_logprobs_L is not None:
            gap_L = sample.old_logprobs_L - sample.reference_logprobs_L
            rewards_L -= stage.kl_weight * gap_L
        rewards_L[-1] += sample.reward
        sample.advantages_L = generalized_advantages(
            rewards_L, sample.old_values_L, gamma=stage.gamma, gae_lambda=stage.gae_lambda
        )
        sample.returns_L = sample.advantages_L + sample.old_values_L
    joined_N = torch.cat([s.advantages_L for s in samples if s.advantages_L is not None])
    returns_N = torch.cat([s.returns_L for s in samples if s.returns_L is not None])
    mean, spread = joined_N.mean(), joined_N.std(unbiased=False)
    for sample in samples:
        assert sample.advantages_L is not None
        # A hair above 0, as with groups.
        sample.advantages_L = (sample.advantages_L - mean) / (spread + 1e-4)
    variance = float(returns_N.var(unbiased=False))
    unexplained = float(joined_N.var(unbiased=False))
    # Returns that differ by roundings only have no variance to explain.
    return {"explained_variance": 1 - unexplained / variance if variance > 1e-8 else 0.0}
