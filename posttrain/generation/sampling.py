"""Write one completion token by token: sampled or greedy, streamed, and stopped at any token.

Everything here is a generator that does the work of one token, or of one chunk of the prompt,
between two values. Whoever drives it may therefore stop it, or let several take turns.

Letters: V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from posttrain.errors import NonFiniteError
from posttrain.generation.greedy import find_end_ids

_CHUNK_TOKENS = 512
_UNFINISHED = "\ufffd"  # what tokenizers decode the first bytes of a character to


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
    logits_V: Tensor, *, temperature: float, top_p: float, generator: torch.Generator
) -> int:
    """Choose the next token.

    Args:
        logits_V: Unnormalized log-probabilities, [V]; minus infinity forbids a token.
        temperature: 0 takes the most likely one.
        top_p: Smallest set of most likely tokens to draw from, by its probability.
        generator: Source of chance, on the CPU.

    Returns:
        A token id.
    """
    if temperature == 0:
        return int(logits_V.argmax())
    # The largest becomes 0 first, so that no temperature makes it overflow.
    probability_V = ((logits_V - logits_V.max()) / temperature).softmax(dim=-1).cpu()
    if top_p < 1:
        sorted_V, order_V = probability_V.sort(descending=True)
        before_V = sorted_V.cumsum(dim=-1) - sorted_V
        probability_V[order_V[before_V >= top_p]] = 0
    return int(torch.multinomial(probability_V, 1, generator=generator))


def find_context(model: Any) -> int | None:
    """Most tokens of prompt and completion together; None where the model sets no limit."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


def build_generator(seed: int | None) -> torch.Generator:
    """Make a source of chance; without a seed, one that is new every time."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def stream_completion(
    model: Any, tokenizer: Any, prompt: Sequence[int], options: SamplingOptions
) -> Iterator[Delta]:
    """Write a completion; at temperature 0 its text is that of ``generate_greedy``.

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
    generator = build_generator(options.seed)
    reader, text = CachedReader(model), _TextStream(tokenizer, options.stop)
    unread = prompt
    for count in range(1, options.max_new_tokens + 1):
        for logits_V in reader.read(unread):
            if logits_V is None:
                yield Delta("", 0)
        token = choose_token(
            logits_V, temperature=options.temperature, top_p=options.top_p, generator=generator
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


class _TextStream:
    """Turns tokens into text as they come, and ends at a stop text.

    Tokens may be parts of characters, and what a token decodes to may depend on the one before
    it; so a few tokens are decoded again with each new one, and only the difference is text.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self.stopped = False
        self._tokenizer, self._stop = tokenizer, stop
        self._token_ids: list[int] = []
        self._settled: list[int] = []
        """Tokens whose text is settled and which are decoded again, to see the next in place."""
        self._held = ""
        """Text that may be the start of a stop text."""

    def add(self, token_id: int) -> str:
        """Take one more token; return the text that is settled by it."""
        self._token_ids.append(token_id)
        grown = self._decode_new()
        return "" if grown.endswith(_UNFINISHED) else self._settle(grown)

    def end(self) -> str:
        """Return what is left, half characters included."""
        rest = self._settle(self._decode_new())
        if not self.stopped:
            rest, self._held = rest + self._held, ""
        return rest

    def _decode_new(self) -> str:
        before = self._decode(self._settled)
        return self._decode(self._settled + self._token_ids)[len(before) :]

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    def _settle(self, grown: str) -> str:
        self._settled = self._token_ids if grown else self._settled + self._token_ids
        self._token_ids = []
        text = self._held + grown
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for start in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stop):
                self._held = text[start:]
                return text[:start]
        self._held = ""
        return text
