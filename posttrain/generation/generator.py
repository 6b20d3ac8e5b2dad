"""What every back end that writes text is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from posttrain.data.records import Message
from posttrain.errors import DataError


@dataclass(frozen=True)
class GenerationRequest:
    """One completion that is wanted."""

    token_ids: tuple[int, ...]
    """The prompt, at least one token; what a back end reads that has the model's tokenizer."""
    messages: tuple[Message, ...] | None = None
    """The same prompt as a conversation, for endpoints that have a template of their own."""
    tools: tuple[dict[str, Any], ...] = ()
    """Functions that the conversation may call."""
    seed: int = 0
    """Of this completion's sampling, whatever is written beside it."""


@dataclass(frozen=True)
class GenerationOptions:
    """How all completions of a call are written."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 always takes the most likely token."""
    top_p: float = 1.0
    """Only the most likely tokens that together have this probability."""
    top_k: int = 0
    """Only so many of the most likely tokens; 0 is all."""
    stop: tuple[str, ...] = ()
    """Texts that end the completion; they are not part of it."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote."""

    text: str
    """Without special tokens, and without the stop text that ended it."""
    token_count: int
    """Written tokens, the end token included."""
    finished: bool
    """Whether the model or a stop text ended it, as against running out of room."""
    token_ids: tuple[int, ...] = ()
    """What was written, the end token included; empty where the back end does not tell."""
    logprobs: tuple[float, ...] = field(default=(), compare=False)
    """Log-probability of each of them as it was sampled, nats; empty where it was not."""
    seconds: float | None = field(default=None, compare=False)
    """From its first to its last token; others were written meanwhile."""
    failure: str | None = None
    """Why there is no text, where there is none."""


class Generator(Protocol):
    """Writes completions; several back ends do."""

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions
    ) -> Iterator[tuple[int, Completion]]:
        """Write one completion per request.

        Yields:
            Number of the request and its completion as each is finished, in any order; one that
            could not be written has a ``failure``.
        """
        ...

    def close(self) -> None:
        """Give back what the back end holds; it writes nothing from then on."""
        ...


def write_all(
    generator: Generator,
    requests: Sequence[GenerationRequest],
    options: GenerationOptions,
    progress: Callable[[int], None] | None = None,
    *,
    whole: bool = False,
) -> list[Completion]:
    """Write one completion per request, and wait for all.

    Args:
        generator: What writes.
        requests: Prompts with their seeds.
        options: How to write.
        progress: Called with the number of finished completions whenever there are more.
        whole: Whether one that could not be written stops everything.

    Returns:
        Completions in the order of the requests.

    Raises:
        DataError: ``whole``, and there is such a one.
    """
    written: dict[int, Completion] = {}
    for index, completion in generator.generate(requests, options):
        if whole and completion.failure:
            raise DataError(
                f"a prompt cannot be answered: {completion.failure}",
                hint="leave such prompts out: data.max_tokens",
            )
        written[index] = completion
        if progress:
            progress(len(written))
    return [written[i] for i in range(len(requests))]
