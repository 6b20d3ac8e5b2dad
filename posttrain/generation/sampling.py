"""Write one completion token by token: sampled or greedy, streamed, and stopped at any token.

Everything here is a generator that does the work of one token, or of one chunk of the prompt,
between two values. Whoever drives it may therefore stop it, or let several take turns.

Letters: V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from posttrain.errors import NonFiniteError
from posttrain.generation.choosing import choose_tokens
from posttrain.generation.endings import TextStream, build_noise, find_end_ids

_CHUNK_TOKENS = 512


@dataclass(frozen=True)
class SamplingOptions:
    """How a completion is written."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 always takes the most likely token."""
    top_p: float = 1.0
    """Only the most likely tokens that together have this probability."""
    seed: int | None = None
    """The same seed gives the same text; without one, every time another."""
    stop: tuple[str, ...] = ()
    """Texts that end the completion; they are not part of it."""


@dataclass(frozen=True)
class Delta:
    """What a completion grew by."""

    text: str
    """Settled text; empty while a character or a stop text is half written."""
    token_count: int
    """Tokens written so far, the end token included."""
    finish_reason: Literal["stop", "length"] | None = None
    """Set on the last one: the model or a stop text ended it, or there was no more room."""


class CachedReader:
    """Reads one sequence bit by bit and remembers its keys and values.

    Args:
        model: A causal model in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None

    def read(self, token_ids: Sequence[int]) -> Iterator[Tensor | None]:
        """Read some more tokens, in chunks.

        Args:
            token_ids: At least one.

        Yields:
            None between two chunks, and last the logits of the token that follows, fp32, [V].

        Raises:
            NonFiniteError: The model's weights are broken.
        """
        for start in range(0, len(token_ids), _CHUNK_TOKENS):
            if start:
                yield None
            logits_V = self._read_chunk(token_ids[start : start + _CHUNK_TOKENS])
        if not (logits_V < torch.inf).all():  # neither infinite nor not a number
            raise NonFiniteError(
                "the model's output is not a number", hint="its weights are broken"
            )
        yield logits_V

    @torch.no_grad()
    def _read_chunk(self, token_ids: Sequence[int]) -> Tensor:
        output = self._model(
            input_ids=torch.tensor([list(token_ids)], device=self._model.device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        logits_V: Tensor = output.logits[0, -1].float()
        return logits_V


def choose_token(
    logits_V: Tensor, *, temperature: float, top_p: float, noise: np.random.Generator
) -> int:
    """Choose the next token of one completion; see ``choose_tokens``."""
    drawn_1 = torch.tensor([noise.random()], dtype=torch.float64, device=logits_V.device)
    return int(
        choose_tokens(
            logits_V[None], temperature=temperature, top_p=top_p, top_k=0, noise_B=drawn_1
        )
    )


def stream_completion(
    model: Any, tokenizer: Any, prompt: Sequence[int], options: SamplingOptions
) -> Iterator[Delta]:
    """Write a completion; at temperature 0 its text is that of the other back ends.

    Args:
        model: A causal model in evaluation mode.
        tokenizer: Its tokenizer.
        prompt: Token ids, at least one.
        options: How to write.

    Yields:
        One delta per token, and empty ones while a long prompt is read. The last one has a
        finish reason, and all texts together are the completion.

    Raises:
        NonFiniteError: The model's weights are broken.
    """
    end_ids = set(find_end_ids(model, tokenizer))
    noise = build_noise(options.seed)
    reader, text = CachedReader(model), TextStream(tokenizer, options.stop)
    unread = prompt
    for count in range(1, options.max_new_tokens + 1):
        for logits_V in reader.read(unread):
            if logits_V is None:
                yield Delta("", 0)
        token = choose_token(
            logits_V, temperature=options.temperature, top_p=options.top_p, noise=noise
        )
        if token in end_ids:
            yield Delta(text.end(), count, "stop")
            return
        grown = text.add(token)
        if text.stopped:
            yield Delta(grown, count, "stop")
            return
        if count < options.max_new_tokens:
            yield Delta(grown, count)
        unread = [token]
    grown += text.end()
    yield Delta(grown, count, "stop" if text.stopped else "length")
