"""Write a multiple-choice item whose JSON is valid whatever the model is.

The skeleton of the JSON is given; the model fills in the texts token by token. Of every text only
tokens are allowed that go on with a JSON string or end it exactly as the skeleton does, and one
that takes up its room is ended. An option that would be the same as a former one cannot end. The
answer key is the most likely one of the four.

Letters: V tokens of the vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from posttrain.data.records import RowError
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import encode_rendered
from posttrain.generation.endings import build_noise, find_context
from posttrain.generation.json_strings import Place, read_string_tokens, unescape
from posttrain.generation.sampling import CachedReader, choose_token
from posttrain.items import (
    KEYS,
    Item,
    ItemRequest,
    build_item_messages,
    fold_option,
    read_item,
)

_OPENING = '{"question": "'
_CLOSINGS = {
    "question": '", "options": {"A": "',
    "A": '", "B": "',
    "B": '", "C": "',
    "C": '", "D": "',
    "D": '"}, "answer": "',
}
_BEFORE_EXPLANATION = '", "explanation": "'
_END = '"}'


@dataclass(frozen=True)
class ItemRoom:
    """Most tokens of each text of an item; a longer one is cut."""

    question: int = 160
    option: int = 48
    explanation: int = 192

    @property
    def total_tokens(self) -> int:
        """Most tokens of a whole item, with ample room for its skeleton."""
        return self.question + len(KEYS) * self.option + self.explanation + 128


@dataclass(frozen=True)
class WrittenItem:
    """An item with what it cost."""

    item: Item
    prompt_tokens: int
    completion_tokens: int
    """Tokens of the item, those of its skeleton included."""


def write_item(
    model: Any,
    tokenizer: Any,
    request: ItemRequest,
    *,
    seed: int | None = 0,
    temperature: float = 0.0,
    room: ItemRoom | None = None,
) -> Item:
    """Write one valid item.

    Args:
        model: A causal model in evaluation mode.
        tokenizer: Its tokenizer, with a chat template.
        request: What the item shall be about.
        seed: The same one gives the same item; None gives another one every time.
        temperature: Of the texts; the answer key is always the most likely one.
        room: Lengths of the texts.

    Returns:
        An item that passes ``check_item``.

    Raises:
        RowError: The template refuses the request, a text of it holds a special token, or the
            passage leaves no room for an item.
        ConfigError: The tokenizer has no chat template.
        NonFiniteError: The model's weights are broken.
    """
    steps = stream_item(model, tokenizer, request, seed=seed, temperature=temperature, room=room)
    *_, written = steps
    assert isinstance(written, WrittenItem)
    return written.item


def stream_item(
    model: Any,
    tokenizer: Any,
    request: ItemRequest,
    *,
    seed: int | None = 0,
    temperature: float = 0.0,
    room: ItemRoom | None = None,
) -> Iterator[WrittenItem | None]:
    """Write one valid item in steps, so that it can be stopped; see ``write_item``.

    Yields:
        None after each token, and last the item.
    """
    room = room or ItemRoom()
    prompt, opening = _encode_request(tokenizer, request)
    context = find_context(model)
    needed = len(prompt) + len(opening) + room.total_tokens
    if context and needed > context:
        raise RowError(
            "the request leaves no room for an item", f"{needed} tokens, {context} are possible"
        )
    writer = _Writer(model, tokenizer, build_noise(seed), temperature)
    yield from writer.read([*prompt, *opening])
    texts: dict[str, str] = {}
    for name, closing in _CLOSINGS.items():
        taken = {fold_option(texts[key]) for key in KEYS if key in texts}
        limit = room.question if name == "question" else room.option
        texts[name] = yield from writer.fill(closing, limit, taken)
    answer = writer.choose_key()
    yield from writer.force(answer + _BEFORE_EXPLANATION)
    explanation = yield from writer.fill(_END, room.explanation, set())
    whole = {"question": texts.pop("question"), "options": texts}
    item = read_item(
        json.dumps({**whole, "answer": answer, "explanation": explanation}),
        stimulus=request.stimulus,
    )
    yield WrittenItem(item, len(prompt), writer.token_count - len(prompt))


def _encode_request(tokenizer: Any, request: ItemRequest) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, and of what stands before the question's text.

    Some templates put something between the prompt and an answer, such as an empty thinking part;
    training rows have it, so it is given here.
    """
    renderer = ChatRenderer(tokenizer)
    messages = build_item_messages(request)
    prompt = renderer.render(messages, prompt=True)
    answered = [*messages, {"role": "assistant", "content": _OPENING}]
    before, found, _ = renderer.render(answered, prompt=False).rpartition(_OPENING)
    lead = before.removeprefix(prompt) if found and before.startswith(prompt) else ""
    return encode_rendered(prompt, tokenizer), encode_rendered(lead + _OPENING, tokenizer)


class _Writer:
    """A model that reads and fills the skeleton of one item."""

    def __init__(
        self, model: Any, tokenizer: Any, noise: np.random.Generator, temperature: float
    ) -> None:
        self.token_count = 0
        self._reader = CachedReader(model)
        self._tokenizer, self._tokens = tokenizer, read_string_tokens(tokenizer)
        self._noise, self._temperature = noise, temperature

    def read(self, token_ids: list[int]) -> Iterator[None]:
        """Read tokens, yielding after each chunk."""
        for logits_V in self._reader.read(token_ids):
            if logits_V is not None:
                self._logits_V = logits_V[: len(self._tokens.pieces)].cpu()
            yield None
        self.token_count += len(token_ids)

    def force(self, text: str) -> Iterator[None]:
        """Go on with a given text."""
        if text:
            yield from self.read(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def choose_key(self) -> str:
        """The most likely answer key."""
        return max(KEYS, key=lambda key: float(self._logits_V[self._tokens.find(key)]))

    def fill(self, closing: str, room: int, taken: set[str]) -> Generator[None, None, str]:
        """Let the model write a text and close it.

        Args:
            closing: The skeleton after the text.
            room: Most tokens of it.
            taken: Folded texts that it must differ from.

        Yields:
            None after each token.

        Returns:
            The text without space around it.
        """
        body, half, count = b"", b"", 0
        while True:
            count += 1
            place = Place(half, first=not body, last=count >= room, closing=closing)
            token, found = self._choose(place, body, taken)
            body += found["body"]
            closes = found["close"] is not None
            half = b"" if closes else found["rest"]
            if closes or (place.last and not half):
                break
            yield from self.read([token])
        yield from self.read([token])
        said = found["rest"].decode() if closes else ""
        yield from self.force(closing[len(said) :])
        return unescape(body).strip()

    def _choose(self, place: Place, body: bytes, taken: set[str]) -> tuple[int, re.Match[bytes]]:
        """Choose a token that fits; one that would end on a taken text is not chosen."""
        allowed_V = self._tokens.allow(place)[: len(self._logits_V)]
        logits_V = self._logits_V.masked_fill(~allowed_V, -torch.inf)
        while torch.isfinite(logits_V).any():
            token = choose_token(
                logits_V, temperature=self._temperature, top_p=1.0, noise=self._noise
            )
            found = self._tokens.read(place.half, token)
            ends = found["close"] is not None or (place.last and not found["rest"])
            if not ends or fold_option(unescape(body + found["body"])) not in taken:
                return token, found
            logits_V[token] = -torch.inf
        raise self._tokens.no_text()
