"""When a completion ends: end tokens, stop texts, no more room."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from posttrain.generation.generator import Completion, GenerationOptions, GenerationRequest

_UNFINISHED = "\ufffd"  # what tokenizers decode the first bytes of a character to


def find_end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Token ids that end a turn: those of the generation config and the tokenizer's end token."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*listed, tokenizer.eos_token_id] if i is not None})


def find_context(model: Any) -> int | None:
    """Most tokens of prompt and completion together; None where the model sets no limit."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


def build_noise(seed: int | None) -> np.random.Generator:
    """Make a source of chance, whose nth draw is for the nth token; None is new every time."""
    return np.random.default_rng(seed if seed is None else seed % 2**64)


class TextStream:
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


class Draft:
    """A completion in the making.

    Args:
        request: What is wanted.
        options: How to write.
        tokenizer: The model's.
        end_ids: Tokens that end a turn.
        context: Most tokens of prompt and completion together; None where there is no limit.
    """

    def __init__(
        self,
        request: GenerationRequest,
        options: GenerationOptions,
        tokenizer: Any,
        end_ids: Collection[int],
        context: int | None = None,
    ) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self._tokenizer, self._end_ids = tokenizer, end_ids
        self._most = options.max_new_tokens
        if context is not None:
            self._most = min(self._most, context - len(request.token_ids))
        self._noise = build_noise(request.seed)
        self._stream = TextStream(tokenizer, options.stop) if options.stop else None
        self._pieces: list[str] = []
        self._ended = False
        self._started = time.perf_counter()

    def draw(self) -> float:
        """Say where the next token is drawn; to be called once for each."""
        return self._noise.random()

    def add(self, token_id: int, logprob: float | None = None) -> bool:
        """Take one more token.

        Returns:
            Whether the completion is done.
        """
        self.token_ids.append(token_id)
        if logprob is not None:
            self.logprobs.append(logprob)
        self._ended = token_id in self._end_ids
        if self._stream and not self._ended:
            self._pieces.append(self._stream.add(token_id))
        done = self._ended or len(self.token_ids) >= self._most
        return done or bool(self._stream and self._stream.stopped)

    def complete(self) -> Completion:
        """Return what was written, once it is done."""
        stopped = False
        if self._stream:
            if not self._stream.stopped:
                self._pieces.append(self._stream.end())
            text, stopped = "".join(self._pieces), self._stream.stopped
        else:
            kept = self.token_ids[:-1] if self._ended else self.token_ids
            text = self._tokenizer.decode(kept, skip_special_tokens=True)
        return Completion(
            text,
            len(self.token_ids),
            self._ended or stopped,
            tuple(self.token_ids),
            tuple(self.logprobs),
            time.perf_counter() - self._started,
        )
