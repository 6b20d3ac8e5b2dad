"""Rendered pieces -> token ids and a mask that says which of them are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from posttrain.data.records import Record, Reject, RowError, check_chat
from posttrain.data.templates import ChatRenderer, Piece

_CHUNK_ROWS = 512


@dataclass(frozen=True)
class Example:
    """One encoded record."""

    record: Record
    token_ids: np.ndarray[Any, Any]
    """[length] int32."""
    trained: np.ndarray[Any, Any]
    """[length] bool: whether the token is a target."""
    retokenized: bool
    """Whether encoding the whole render at once would give other ids, at the last turn's start."""


@dataclass(frozen=True)
class EncodeOptions:
    """What of a conversation is trained, and how long it may be."""

    max_tokens: int
    last_only: bool


def encode_records(
    records: Iterable[Record], renderer: ChatRenderer, options: EncodeOptions
) -> Iterator[Example | Reject]:
    """Encode conversations; each gives an example or a reject, in order.

    The prompt of the last turn has exactly the ids it has at inference, where the completion is
    not there yet to merge with it.

    Args:
        records: Converted rows.
        renderer: Of the model's tokenizer.
        options: Length and turns.

    Yields:
        One item per record.
    """
    stream = iter(records)
    while chunk := list(islice(stream, _CHUNK_ROWS)):
        cut = [_cut(record, renderer, options) for record in chunk]
        kept = [pieces for pieces in cut if not isinstance(pieces, Reject)]
        encoded = iter(_encode_pieces(kept, renderer.tokenizer))
        for record, pieces in zip(chunk, cut, strict=True):
            if isinstance(pieces, Reject):
                yield pieces
                continue
            token_ids, trained, retokenized = next(encoded)
            if len(token_ids) > options.max_tokens:
                detail = f"{len(token_ids)} tokens, max_tokens is {options.max_tokens}"
                yield Reject(record.origin, "too long", detail)
            else:
                yield Example(record, token_ids, trained, retokenized)


def encode_prompt(record: Record, renderer: ChatRenderer) -> list[int]:
    """Token ids of a record's prompt, up to where the answer is to be written.

    Raises:
        RowError: The template refuses the conversation.
    """
    text = renderer.render(record.chat.prompt, record.chat.tools, prompt=True)
    return list(renderer.tokenizer(text, add_special_tokens=False)["input_ids"])


def _cut(record: Record, renderer: ChatRenderer, options: EncodeOptions) -> list[Piece] | Reject:
    try:
        check_chat(record.chat)
        if record.chat.messages[-1]["role"] != "assistant":
            raise RowError("does not end with an assistant turn")
        return renderer.split_trained(record.chat, last_only=options.last_only)
    except RowError as error:
        return Reject(record.origin, error.reason, error.detail)


Encoded = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], bool]
_OPTIONS = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}


def _encode_pieces(rows: Sequence[Sequence[Piece]], tokenizer: Any) -> Iterator[Encoded]:
    """Encode all pieces of a chunk in two calls: piece by piece, and whole rows to compare.

    Where the two differ, a token lies across a boundary, or the tokenizer puts a space before
    every text; such rows are encoded again, with a closer look.
    """
    if not rows:
        return
    pieces = tokenizer([p.text for row in rows for p in row], **_OPTIONS)["input_ids"]
    wholes = tokenizer(["".join(p.text for p in row) for row in rows], **_OPTIONS)["input_ids"]
    stream = iter(pieces)
    for row, whole in zip(rows, wholes, strict=True):
        parts = [next(stream) for _ in row]
        token_ids, trained = _join(row, parts)
        same = token_ids.tolist() == list(whole)
        if same or not tokenizer.is_fast:
            yield token_ids, trained, not same
        else:
            yield _encode_across(row, parts, tokenizer)


def _join(
    row: Sequence[Piece], parts: Sequence[Sequence[int]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    token_ids = np.fromiter((t for part in parts for t in part), dtype=np.int32)
    flags = np.array([piece.trained for piece in row], dtype=bool)
    return token_ids, np.repeat(flags, [len(part) for part in parts])


def _encode_across(row: Sequence[Piece], parts: Sequence[Sequence[int]], tokenizer: Any) -> Encoded:
    """Encode a row whose pieces cannot be encoded one by one.

    The text before the last trained piece is encoded in one go, as at inference. What follows
    keeps the ids of the whole where they go on from there, and is encoded by itself elsewhere. A
    token across the start of an earlier turn is not trained.
    """
    last = max(i for i, piece in enumerate(row) if piece.trained)
    prompt, prompt_trained = _encode_by_place(row[:last], tokenizer)
    whole, whole_trained = _encode_by_place(row, tokenizer)
    if whole[: len(prompt)].tolist() == prompt.tolist():
        return whole, whole_trained, False
    rest, rest_trained = _join(row[last:], parts[last:])
    token_ids = np.concatenate([prompt, rest])
    return token_ids, np.concatenate([prompt_trained, rest_trained]), True


def _encode_by_place(
    row: Sequence[Piece], tokenizer: Any
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Encode the joined text; a token belongs to the piece in which it starts."""
    text = "".join(piece.text for piece in row)
    encoded = tokenizer(text, return_offsets_mapping=True, **_OPTIONS)
    characters: np.ndarray[Any, Any] = np.repeat(
        np.array([piece.trained for piece in row], dtype=bool), [len(p.text) for p in row]
    )
    places = [start for start, _ in encoded["offset_mapping"]]
    return np.array(encoded["input_ids"], dtype=np.int32), characters[places]
