"""What the answers of a round are worth."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from posttrain.config.model import ModelConfig
from posttrain.config.train import RewardsConfig
from posttrain.data.store import ExampleStore
from posttrain.errors import ConfigError, DataError
from posttrain.generation.generator import Completion
from posttrain.grading.rewards import grade_answer
from posttrain.models.heads import load_reward_model, score_trees
from posttrain.models.load import load_tokenizer

Ids = np.ndarray[Any, Any]


def check_references(weights: RewardsConfig, prompts: ExampleStore) -> None:
    """Refuse prompts whose answers cannot be graded.

    Raises:
        DataError: A prompt has no reference answer, and right answers are rewarded.
    """
    if not weights.answer:
        return
    for index, note in enumerate(prompts.notes):
        if not note.get("reference"):
            raise DataError(
                f"{prompts.origin(index)}: no reference answer to grade against",
                hint="give rows with one, as of the gsm8k format, or set "
                "rewards.answer: 0 and rewards.model",
            )


class Rewards:
    """Grades answers: right or not, in form or not, and a reward model's score.

    Args:
        weights: Of the parts; a reward model is loaded where ``model`` names one.
        prompts: Prompts with their reference answers.
        tokenizer: Of the model that writes.
        device: Of the reward model.

    Raises:
        DataError: A prompt has no reference answer to grade against.
        CheckpointError: The reward model cannot be read.
        ConfigError: Its tokens are not those of the model that writes.
    """

    def __init__(
        self, weights: RewardsConfig, prompts: ExampleStore, tokenizer: Any, device: str
    ) -> None:
        self.weights = weights
        self._take(prompts)
        self.model = None
        if weights.model:
            self.model = _load_model(weights.model, tokenizer, device)

    def over(self, prompts: ExampleStore) -> Rewards:
        """Make the same rewards for answers to other prompts; the reward model is shared."""
        other = copy.copy(self)
        other._take(prompts)
        return other

    def _take(self, prompts: ExampleStore) -> None:
        check_references(self.weights, prompts)
        self.notes = prompts.notes
        self._gradable = all(note.get("reference") for note in self.notes)

    def grade(
        self, prompts: Sequence[Ids], completions: Sequence[Completion], examples: Sequence[int]
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
            if self._gradable:
                parts["answer"] = [float(right) for right, _ in verdicts]
            parts["format"] = [
                float(in_form and completion.finished)
                for (_, in_form), completion in zip(verdicts, completions, strict=True)
            ]
        if self.model is not None:
            trees = list(_grow_trees(prompts, completions, examples))
            parts["model"] = [
                score for scores in score_trees(self.model, trees) for score in scores
            ]
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


def _grow_trees(
    prompts: Sequence[Ids], completions: Sequence[Completion], examples: Sequence[int]
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Yield each prompt once, with the answers to it that lie side by side."""
    rows = zip(examples, prompts, completions, strict=True)
    for _, group in groupby(rows, key=lambda row: row[0]):
        members = list(group)
        yield members[0][1].tolist(), [list(completion.token_ids) for *_, completion in members]


def _load_model(name: str, tokenizer: Any, device: str) -> Any:
    model = load_reward_model(name, device)
    if load_tokenizer(ModelConfig(path=name)).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"rewards.model {name}: its tokenizer is not that of the model in training",
            hint="train a reward model that starts from the same model",
        )
    return model
