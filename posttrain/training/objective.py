"""What a training method is to the trainer: how much a batch weighs, and its share of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from posttrain.models.packed import TokenScores, score_batch
from posttrain.objectives.language import weighted_nll


@dataclass(frozen=True)
class BatchResult:
    """What an objective makes of one batch."""

    loss: Tensor
    """Scalar: the batch's share of the step's loss; shares of all batches and processes add up."""
    sums: dict[str, Tensor]
    """Metric -> its total over the batch, detached; the mean is the total by ``weight``."""
    weight: Tensor
    """What the totals are divided by; as ``weigh`` counts, detached."""


class Objective(Protocol):
    """A training method."""

    def weigh(self, batch: dict[str, Any]) -> Tensor:
        """Weight of a batch in the mean of its step: loss weights, pairs, or completions."""

    def measure(self, model: Any, batch: dict[str, Any], total_weight: Tensor) -> BatchResult:
        """Run the model on a batch.

        Args:
            model: Prepared for packed batches.
            batch: Tensors of ``layout.build_batch`` and what the method has added.
            total_weight: Sum of ``weigh`` over the whole step, all batches and processes.
        """


class LanguageObjective:
    """Mean negative log-likelihood per unit of loss weight: fine-tuning and pretraining."""

    def weigh(self, batch: dict[str, Any]) -> Tensor:
        """Sum of the loss weights."""
        weight: Tensor = batch["score_weights"].sum()
        return weight

    def score(self, model: Any, batch: dict[str, Any]) -> TokenScores:
        """Run the model."""
        return score_batch(model, batch)

    def measure(self, model: Any, batch: dict[str, Any], total_weight: Tensor) -> BatchResult:
        """Score every target."""
        weights_N = batch["score_weights"]
        # The loss is linear in the log-probabilities, so its derivative is known beforehand.
        scores = self.score(model, {**batch, "score_upstream": -weights_N / total_weight})
        loss = weighted_nll(scores.logprobs_N, weights_N, total_weight=total_weight)
        with torch.no_grad():
            sums = {
                "loss": -(scores.logprobs_N * weights_N).sum(),
                "token_accuracy": (scores.correct_N * weights_N).sum(),
                "entropy": (scores.entropy_N * weights_N).sum(),
            }
        return BatchResult(loss, sums, weights_N.sum())
