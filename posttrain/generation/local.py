"""The `transformers` back end: a model in this process writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from posttrain.generation.generator import Completion, GenerationOptions, GenerationRequest
from posttrain.generation.in_flight import write_in_flight
from posttrain.generation.static import write_static
from posttrain.logs import say
from posttrain.models.packing import find_packing_obstacle


class TransformersGenerator:
    """Writes with a model of transformers.

    Args:
        model: A causal model in evaluation mode; nothing else may use it while it writes.
        tokenizer: Its tokenizer.
        batch_size: Completions written side by side.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int) -> None:
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        obstacle = find_packing_obstacle(model.config)
        self._write = write_static if obstacle else write_in_flight
        if obstacle:
            say(f"completions are written in batches that wait for their longest: {obstacle}")

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions
    ) -> Iterator[tuple[int, Completion]]:
        """Write one completion per request; see ``Generator``.

        Raises:
            NonFiniteError: The model's weights are broken.
        """
        return self._write(self._model, self._tokenizer, requests, options, self._batch_size)

    def close(self) -> None:
        """Nothing is held: the model is the caller's."""


def build_requests(prompts: Sequence[Sequence[int]], seed: int = 0) -> list[GenerationRequest]:
    """Make a request of each prompt, with seeds of their own that one seed settles."""
    seeds = np.random.SeedSequence(seed % 2**64).generate_state(len(prompts), np.uint64)
    return [
        GenerationRequest(tuple(prompt), seed=own)
        for prompt, own in zip(prompts, seeds.tolist(), strict=True)
    ]
