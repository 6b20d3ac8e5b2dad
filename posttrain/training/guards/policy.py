"""Learning from the model's own answers: what is scored is what was sampled, and still varies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import VerificationError
from posttrain.training.guards.rollback import SpoiltStepError

_MOST_EQUAL = 0.9
_IN_A_ROW = 3
_MOST_UNFINISHED = 0.5
_LEAST_IN_FORM = 0.1
_LEAST_ENTROPY = 0.1  # of the first


def check_logprobs(logprobs_N: Tensor, step: int, rows: Sequence[str]) -> None:
    """Refuse log-probabilities of a round's answers that are not finite.

    Args:
        logprobs_N: Of the model that wrote them, or the reference.
        step: First one of the round, from 1.
        rows: Where the round's prompts were read.

    Raises:
        SpoiltStepError: One is NaN or infinite.
    """
    if not torch.isfinite(logprobs_N).all():
        raise SpoiltStepError(
            step,
            "the log-probability of an answer's token is not finite",
            rows,
            hint="lower the learning rate; compute.precision: fp32 tells whether bf16 is the cause",
        )


def check_sampler(gap: float, tolerance: float, step: int) -> None:
    """Refuse to learn from answers that the model in training would score differently.

    Args:
        gap: Mean distance of the log-probabilities at sampling and in training, nats per token.
        tolerance: Most that is let pass.
        step: At which it was measured, from 1.

    Raises:
        VerificationError: It is more.
    """
    if not gap <= tolerance:
        raise VerificationError(
            f"step {step}: sampler and trainer differ by {gap:.3g} nats per token, more than "
            f"sampler_tolerance {tolerance:g}; the answers are not of the model that learns",
            hint="try compute.precision: fp32 and no dropout, or raise sampler_tolerance",
        )


class PolicyWatch:
    """Warns, once each, of what makes online training look busy and learn nothing."""

    def __init__(self) -> None:
        self._first_entropy: float | None = None
        self._equal = 0
        self._said: set[str] = set()

    def look(self, values: dict[str, float]) -> list[str]:
        """Take in a line of metrics; return new warnings."""
        found = [(name, text) for name, text in self._find(values) if name not in self._said]
        self._said |= {name for name, _ in found}
        return [text for _, text in found]

    def _find(self, values: dict[str, float]) -> Iterator[tuple[str, str]]:
        entropy = values.get("entropy")
        if entropy is not None:
            first = self._first_entropy = self._first_entropy or entropy
            if entropy < _LEAST_ENTROPY * first:
                yield (
                    "entropy",
                    f"entropy has fallen from {first:.3g} to {entropy:.3g} nats per token: the "
                    "answers become alike; lower learning_rate, or raise kl_weight or clip_high",
                )
        self._equal = self._equal + 1 if values.get("equal_groups", 0.0) >= _MOST_EQUAL else 0
        if self._equal >= _IN_A_ROW:
            yield (
                "equal_groups",
                f"{self._equal} log lines in a row, in most groups all answers are worth the same "
                "and teach nothing; take other prompts, or raise completions or temperature",
            )
        if values.get("unfinished", 0.0) >= _MOST_UNFINISHED:
            yield (
                "unfinished",
                f"{values['unfinished']:.0%} of the answers ran out of room; raise max_new_tokens",
            )
        if values.get("reward_format", 1.0) < _LEAST_IN_FORM:
            yield (
                "reward_format",
                f"only {values['reward_format']:.0%} of the answers are written in the form that "
                "is graded; fine-tune the model on it first, or reward `format`",
            )

    def save(self) -> dict[str, Any]:
        """What a resumed run needs to say the same."""
        return {
            "first_entropy": self._first_entropy,
            "equal": self._equal,
            "said": sorted(self._said),
        }

    def load(self, kept: dict[str, Any]) -> None:
        """Take up what ``save`` has returned."""
        self._first_entropy, self._equal = kept["first_entropy"], kept["equal"]
        self._said = set(kept["said"])
