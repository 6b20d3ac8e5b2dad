"""Preference pairs -> trees: the prompt is the root, the two answers are its children."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from posttrain.data.encode import Example
from posttrain.data.records import Message, Preference, Record, Reject, RowError, check_chat
from posttrain.data.templates import ChatRenderer
from posttrain.layout import NO_PARENT


def encode_pairs(
    records: Iterable[Record[Preference]], renderer: ChatRenderer, max_tokens: int
) -> Iterator[Example | Reject]:
    """Encode pairs; each gives an example of three segments or a reject, in order.

    Args:
        records: Converted rows.
        renderer: Of the model's tokenizer.
        max_tokens: Longest prompt with either answer.

    Yields:
        One item per record; segments are the prompt, the chosen and the rejected answer.
    """
    for record in records:
        try:
            yield _encode_pair(record, renderer, max_tokens)
        except RowError as error:
            yield Reject(record.origin, error.reason, error.detail)


def _encode_pair(record: Record[Preference], renderer: ChatRenderer, max_tokens: int) -> Example:
    pair = record.content
    parts = [_encode_answer(pair, answer, renderer) for answer in (pair.chosen, pair.rejected)]
    (prompt, chosen), (other_prompt, rejected) = parts
    if prompt != other_prompt:
        raise RowError("the template renders two prompts", "they must not depend on the answer")
    if chosen == rejected:
        raise RowError("chosen and rejected are equal", "once rendered")
    longest = len(prompt) + max(len(chosen), len(rejected))
    if longest > max_tokens:
        raise RowError("too long", f"{longest} tokens, max_tokens is {max_tokens}")
    lengths = (len(prompt), len(chosen), len(rejected))
    return Example(
        record,
        np.array([*prompt, *chosen, *rejected], dtype=np.int32),
        np.repeat(np.float32([0, 1, 1]), lengths),
        retokenized=False,
        lengths=lengths,
        parents=(NO_PARENT, 0, 0),
    )


def _encode_answer(
    pair: Preference, answer: Message, renderer: ChatRenderer
) -> tuple[list[int], list[int]]:
    """Ids of the prompt as at inference, and of the answer with its end token."""
    chat = pair.answered(answer)
    check_chat(chat)
    pieces = renderer.split_trained(chat, last_only=True)
    place = next(i for i, piece in enumerate(pieces) if piece.weight)
    before = "".join(piece.text for piece in pieces[:place])
    return _ids(renderer, before), _ids(renderer, pieces[place].text)


def _ids(renderer: ChatRenderer, text: str) -> list[int]:
    encoded: Any = renderer.tokenizer(text, add_special_tokens=False, verbose=False)
    return list(encoded["input_ids"])
