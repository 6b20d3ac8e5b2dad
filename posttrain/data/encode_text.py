"""Documents -> blocks of tokens, every one a target but a block's first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from posttrain.config.data import TextDataConfig
from posttrain.data.encode import Example
from posttrain.data.records import Record, Reject, Text
from posttrain.errors import DataError

_CHUNK_ROWS = 512


def encode_text(
    records: Iterable[Record[Text]], tokenizer: Any, config: TextDataConfig
) -> Iterator[Example | Reject]:
    """Encode documents, an end token behind each, and cut them into blocks.

    Where the tokenizer puts a begin token before every text, so does each document. An encoder's
    tokenizer, which has a mask token, puts its marks around every block instead, and a separator
    between documents.

    Args:
        records: Documents.
        tokenizer: The model's.
        config: Block size, and whether documents are laid end to end.

    Yields:
        Blocks; each knows the document in which it starts. A block of one token, which nothing
        predicts, is left out.

    Raises:
        DataError: The tokenizer has no token that ends a document, or its marks leave no room.
    """
    frame = _find_frame(tokenizer)
    size = config.block_tokens - len(frame.before) - len(frame.behind)
    if size < 1:
        raise DataError(
            f"data.block_tokens: {config.block_tokens} tokens leave no room between the marks of "
            "the tokenizer",
            hint="raise it",
        )
    held: list[int] = []
    places: list[tuple[int, Record[Text]]] = []  # where in `held` each document starts
    special = set(tokenizer.all_special_ids)
    for record, ids in _encode_documents(records, tokenizer):
        if special.issuperset(ids):
            yield Reject(record.origin, "nothing to learn", "no token but special ones")
            continue
        places.append((len(held), record))
        held.extend([*frame.begin, *ids, *frame.end])
        while len(held) >= size:
            yield from _block(held[:size], frame, places[0][1])
            held = held[size:]
            places = _move_up(places, size)
        if not config.join:
            if held:
                yield from _block(held, frame, places[0][1])
            held, places = [], []
    if held:
        yield from _block(held, frame, places[0][1])


@dataclass(frozen=True)
class _Frame:
    """Tokens around each document, and around each block."""

    begin: list[int]
    end: list[int]
    before: list[int]
    behind: list[int]


def _find_frame(tokenizer: Any) -> _Frame:
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    starts = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    start = next(starts, 0)
    before, behind = whole[:start], whole[start + len(bare) :]
    if tokenizer.mask_token_id is not None:
        # What closes a block parts documents too; a document's own end would double it.
        return _Frame([], behind[:1], before, behind)
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path} has no end token to part documents with",
            hint="set eos_token in its tokenizer_config.json",
        )
    return _Frame(before, [tokenizer.eos_token_id], [], [])


def _encode_documents(
    records: Iterable[Record[Text]], tokenizer: Any
) -> Iterator[tuple[Record[Text], list[int]]]:
    stream = iter(records)
    while chunk := list(islice(stream, _CHUNK_ROWS)):
        texts = [record.content.text for record in chunk]
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        yield from zip(chunk, encoded, strict=True)


def _move_up(places: list[tuple[int, Record[Text]]], cut: int) -> list[tuple[int, Record[Text]]]:
    """Places after the first ``cut`` tokens are gone; the document across the cut starts at 0."""
    moved = [(start - cut, record) for start, record in places]
    across = [item for item in moved if item[0] <= 0]
    later = [item for item in moved if item[0] > 0]
    # A document that starts right at the cut is not across it, and neither is the one before.
    return [*across[-1:], *later]


def _block(held: list[int], frame: _Frame, record: Record[Text]) -> Iterator[Example]:
    """Yield a block, unless nothing in it can be learned."""
    if frame.behind and held[-1:] == frame.end:
        held = held[:-1]
    if len(held) < (1 if frame.before else 2):
        return
    ids = np.array([*frame.before, *held, *frame.behind], dtype=np.int32)
    weights: np.ndarray[Any, Any] = np.ones(len(ids), dtype=np.float32)
    weights[0] = 0
    yield Example(record, ids, weights, retokenized=False)
