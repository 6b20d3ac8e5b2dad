"""The `transformers` back end: a model in this process writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from posttrain.generation.endings import find_context
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

        None goes beyond what the model takes; a prompt that leaves no room has a failure.

        Raises:
            NonFiniteError: The model's weights are broken.
        """
        context = find_context(self._model)
        fitting = []
        for number, request in enumerate(requests):
            if context is None or len(request.token_ids) < context:
                fitting.append(number)
            else:
                count = len(request.token_ids)
                reason = f"the prompt has {count:,} tokens, and the model takes {context:,} in all"
                yield number, Completion("", 0, False, failure=reason)
        chosen = [requests[number] for number in fitting]
        for place, completion in self._write(
            self._model, self._tokenizer, chosen, options, self._batch_size
        ):
            yield fitting[place], completion

    def close(self) -> None:
        """Nothing is held: the model is the caller's."""


def build_requests(prompts: Sequence[Sequence[int]], seed: int = 0) -> list[GenerationRequest]:
    """Make a request of each prompt, with seeds of their own that one seed settles."""
    seeds = np.random.SeedSequence(seed % 2**64).generate_state(len(prompts), np.uint64)
    return [
        GenerationRequest(tuple(prompt), seed=own)
        for prompt, own in zip(prompts, seeds.tolist(), strict=True)
    ]
