"""What the answers of a round are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.config.train import RewardsConfig
from posttrain.data.store import ExampleStore
from posttrain.errors import DataError
from posttrain.generation.greedy import Completion
from posttrain.grading.rewards import grade_answer


class Rewards:
    """Grades answers: right or not, in form or not, and a reward model's score.

    Args:
        weights: Of the parts; a reward model is loaded where ``model`` names one.
        prompts: Training prompts with their reference answers.
        device: Of the reward model.

    Raises:
        DataError: A prompt has no reference answer to grade against.
        CheckpointError: The reward model cannot be read.
    """

    def __init__(self, weights: RewardsConfig, prompts: ExampleStore, device: str) -> None:
        self.weights = weights
        self.notes = prompts.notes
        if self.weights.answer:
            for index, note in enumerate(self.notes):
                if not note.get("reference"):
                    raise DataError(
                        f"{prompts.origin(index)}: no reference answer to grade against",
                        hint="give rows with one, as of the gsm8k format, or set "
                        "rewards.answer: 0 and rewards.model",
                    )
        name = self.weights.model
        self.model = None
        if name:
            from posttrain.models.heads import load_reward_model

            self.model = load_reward_model(name, device)

    def grade(
        self,
        prompts: Sequence[np.ndarray[Any, Any]],
        completions: Sequence[Completion],
        examples: Sequence[int],
    ) -> tuple[list[float], dict[str, float]]:
        """Grade answers.

        Args:
            prompts: Token ids of each answer's prompt.
            completions: The answers.
            examples: Number of each prompt.

        Returns:
            What each is worth, and the mean of every part before its weight.
        """
        parts: dict[str, list[float]] = {}
        if self.weights.answer or self.weights.format:
            verdicts = [
                grade_answer(completion.text, self.notes[example].get("reference") or "")
                for completion, example in zip(completions, examples, strict=True)
            ]
            parts["answer"] = [float(right) for right, _ in verdicts]
            parts["format"] = [
                float(in_form and completion.finished)
                for (_, in_form), completion in zip(verdicts, completions, strict=True)
            ]
        if self.model is not None:
            from posttrain.models.heads import score_trees

            trees = [
                (prompt.tolist(), [list(completion.token_ids)])
                for prompt, completion in zip(prompts, completions, strict=True)
            ]
            parts["model"] = [scores[0] for scores in score_trees(self.model, trees)]
        weight = {
            "answer": self.weights.answer,
            "format": self.weights.format,
            "model": self.weights.model_weight,
        }
        worth = [
            sum(weight[name] * values[i] for name, values in parts.items())
            for i in range(len(completions))
        ]
        means = {f"reward_{name}": sum(values) / len(values) for name, values in parts.items()}
        return worth, means
