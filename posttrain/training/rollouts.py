"""A round of online training: write answers, grade them, and pack them as trees.

Letters: N completion tokens of a batch, L tokens of one completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.config.train import GrpoStage, PpoStage
from posttrain.data.pack import pack_sizes
from posttrain.data.store import ExampleStore
from posttrain.errors import ConfigError
from posttrain.generation.generator import Completion, GenerationOptions, write_all
from posttrain.generation.local import TransformersGenerator, build_requests
from posttrain.layout import NO_PARENT, Segment, build_batch
from posttrain.training.batches import to_tensors
from posttrain.training.lending import lend

SIDE_BY_SIDE = 256
"""Answers written at once."""


@dataclass
class Sample:
    """One answer and what training needs of it."""

    prompt: np.ndarray[Any, Any]
    """Token ids."""
    group: int
    """Answers of one group have one prompt."""
    completion: Completion
    reward: float
    sampler_logprobs_L: Tensor | None = None
    """As they were sampled, nats."""
    old_logprobs_L: Tensor | None = None
    """Of the model that wrote it, nats."""
    reference_logprobs_L: Tensor | None = None
    old_values_L: Tensor | None = None
    advantages_L: Tensor | None = None
    returns_L: Tensor | None = None

    def __post_init__(self) -> None:
        if self.completion.logprobs:
            self.sampler_logprobs_L = torch.tensor(self.completion.logprobs)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Of the completion."""
        return self.completion.token_ids


def check_room(stage: GrpoStage | PpoStage, prompts: ExampleStore) -> None:
    """Refuse prompts that do not fit a batch together with an answer.

    Raises:
        ConfigError: Says how long they may get.
    """
    longest = int(prompts.lengths.max()) + stage.max_new_tokens
    if longest > stage.batch_tokens:
        raise ConfigError(
            f"stage `{stage.name}`: a prompt with its answer may have {longest} tokens, "
            f"batch_tokens is {stage.batch_tokens}",
            hint="raise batch_tokens, or lower max_new_tokens or data.max_tokens",
        )


def write_samples(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[np.ndarray[Any, Any]],
    *,
    completions: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[tuple[int, Completion]]:
    """Sample several answers to each prompt.

    Args:
        model: Prepared for packed batches, in training.
        tokenizer: Its tokenizer.
        prompts: Token ids.
        completions: Answers per prompt.
        max_new_tokens: Longest answer.
        temperature: Of the sampling.
        seed: Of the sampling.

    Returns:
        Number of the prompt and the answer; answers of a prompt side by side.
    """
    groups = [number for number in range(len(prompts)) for _ in range(completions)]
    requests = build_requests([prompts[group].tolist() for group in groups], seed)
    with lend(model, writing=True):
        generator = TransformersGenerator(model, tokenizer, batch_size=SIDE_BY_SIDE)
        options = GenerationOptions(max_new_tokens, temperature)
        written = write_all(generator, requests, options, whole=True)
    return list(zip(groups, written, strict=True))


def pack_samples(samples: Sequence[Sample], batch_tokens: int) -> list[dict[str, Any]]:
    """Pack answers into batches: a group's prompt is a root, its answers are the children.

    A group that does not fit one batch is cut into several trees.

    Args:
        samples: Answers, those of a group side by side.
        batch_tokens: Most tokens in a batch.

    Returns:
        Packed batches as tensors; ``order`` holds the numbers of the answers as they lie in the
        batch, and each per-token field of the samples that is set is there laid out likewise.
    """
    trees = _cut_trees(samples, batch_tokens)
    sizes = np.array([_tree_tokens(samples, tree) for tree in trees])
    bins = pack_sizes(np.arange(len(trees)), sizes, batch_tokens)
    return [_build_batch(samples, [trees[i] for i in chosen]) for chosen in bins]


def _cut_trees(samples: Sequence[Sample], batch_tokens: int) -> list[list[int]]:
    trees: list[list[int]] = []
    for number, sample in enumerate(samples):
        if trees and samples[trees[-1][0]].group == sample.group:
            longer = [*trees[-1], number]
            if _tree_tokens(samples, longer) <= batch_tokens:
                trees[-1] = longer
                continue
        trees.append([number])
    return trees


def _tree_tokens(samples: Sequence[Sample], tree: Sequence[int]) -> int:
    return len(samples[tree[0]].prompt) + sum(len(samples[i].token_ids) for i in tree)


def _build_batch(samples: Sequence[Sample], trees: Sequence[Sequence[int]]) -> dict[str, Any]:
    segments: list[Segment] = []
    for tree in trees:
        prompt = samples[tree[0]].prompt
        root = len(segments)
        segments.append(Segment(prompt, np.zeros(len(prompt)), NO_PARENT))
        for number in tree:
            ids = np.array(samples[number].token_ids)
            segments.append(Segment(ids, np.ones(len(ids)), root))
    order = [number for tree in trees for number in tree]
    batch: dict[str, Any] = {**to_tensors(build_batch(segments)), "order": order}
    for name in _TOKEN_FIELDS:
        parts = [getattr(samples[number], f"{name}_L") for number in order]
        if all(part is not None for part in parts):
            batch[f"{name}_N"] = torch.cat(parts)
    return batch


_TOKEN_FIELDS = (
    "sampler_logprobs",
    "old_logprobs",
    "reference_logprobs",
    "old_values",
    "advantages",
    "returns",
)


def split_updates(samples: Sequence[Sample], updates: int, seed: int) -> list[list[Sample]]:
    """Deal a round's groups to its updates, shuffled.

    Args:
        samples: Answers, those of a group side by side.
        updates: Optimizer steps; no more than there are groups.
        seed: Of the shuffling.

    Returns:
        Answers of each update, groups whole.
    """
    groups = sorted({sample.group for sample in samples})
    shuffled = np.random.default_rng(seed).permutation(groups)
    parts = [set(part.tolist()) for part in np.array_split(shuffled, updates)]
    return [[s for s in samples if s.group in part] for part in parts]
