"""Documents -> blocks of tokens, every one a target but a block's first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from posttrain.config.data import TextDataConfig
from posttrain.data.encode import Example
from posttrain.data.records import Record, Reject, Text
from posttrain.data.store import ExampleBlock
from posttrain.errors import DataError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Frame:
    """Tokens around each document, and around each block."""

    begin: tuple[int, ...]
    end: tuple[int, ...]
    before: tuple[int, ...]
    behind: tuple[int, ...]

    @classmethod
    def find(cls, tokenizer: Any) -> Frame:
        """Ask a tokenizer.

        Where it puts a begin token before every text, so does each document. An encoder's
        tokenizer, which has a mask token, puts its marks around every block instead, and a
        separator between documents.

        Raises:
            DataError: It has no token that ends a document.
        """
        bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        whole = list(tokenizer("a")["input_ids"])
        starts = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        start = next(starts, 0)
        before, behind = tuple(whole[:start]), tuple(whole[start + len(bare) :])
        if tokenizer.mask_token_id is not None:
            # What closes a block parts documents too; a document's own end would double it.
            return cls((), behind[:1], before, behind)
        if tokenizer.eos_token_id is None:
            raise DataError(
                f"the tokenizer {tokenizer.name_or_path} has no end token to part documents with",
                hint="set eos_token in its tokenizer_config.json",
            )
        return cls(before, (tokenizer.eos_token_id,), (), ())


def encode_document(
    record: Record[Text], encode: Any, special: set[int], frame: Frame
) -> Example | Reject:
    """Encode a document, its end token behind it.

    Args:
        record: The document.
        encode: From text to token ids.
        special: Ids of special tokens.
        frame: Tokens around it.

    Returns:
        The document, however long, or a reject where there is nothing to learn.
    """
    ids = encode(record.content.text)
    if special.issuperset(ids):
        return Reject(record.origin, "nothing to learn", "no token but special ones")
    framed = np.array([*frame.begin, *ids, *frame.end], dtype=np.int32)
    return Example(record, framed, np.ones(len(framed), np.float32), retokenized=False)


def check_room(config: TextDataConfig, frame: Frame) -> int:
    """Return the tokens of text that a block has room for.

    Raises:
        DataError: They leave none for a token that another one predicts.
    """
    marks = len(frame.before) + len(frame.behind)
    # With one more, a block can always lend its successor a token to be predicted from.
    size, least = config.block_tokens - marks, 2 * _least(frame) - 1
    if size < least:
        raise DataError(
            f"data.block_tokens: {config.block_tokens} leaves no room for a token to predict",
            hint=f"make it at least {marks + least}, better hundreds",
        )
    return size


def _least(frame: Frame) -> int:
    """Tokens of text that a block needs: nothing predicts its first token."""
    return 1 if frame.before else 2


def cut_blocks(
    documents: Iterable[ExampleBlock], frame: Frame, size: int, *, join: bool
) -> Iterator[ExampleBlock]:
    """Cut encoded documents into blocks of at most ``size`` tokens and their marks.

    Args:
        documents: In order.
        frame: Tokens around each block.
        size: Tokens of text in a block.
        join: Lay documents end to end; else each stays by itself and only long ones are cut.

    Yields:
        Blocks; each knows the document in which it starts. Every token of every document is in
        one of them, so all are trained but the first of each block.
    """
    held: Array = np.zeros(0, np.int32)
    places: Array = np.zeros((0, 2), np.int64)
    starts: Array = np.zeros(0, np.int64)  # where in `held` each document begins
    for block in documents:
        if not len(block):
            continue
        starts = np.concatenate([starts, len(held) + _starts(block.lengths)])
        places = np.concatenate([places, block.places])
        held = np.concatenate([held, block.token_ids])
        ends = [len(held)] if join else [*starts[1:].tolist(), len(held)]
        cuts = _cuts(ends, size, 1 if join else _least(frame))
        if join:  # the last one grows, and may have to borrow a token of the one before it
            cuts = cuts[:-2]
        if cuts:
            yield _lay_out(held, starts, places, cuts, frame)
        done = (cuts[-1][1] if cuts else 0) if join else len(held)
        held = held[done:]
        # The document across the cut goes on.
        first = max(0, int(np.searchsorted(starts, done, side="right")) - 1)
        first = first if len(held) else len(starts)
        starts, places = np.maximum(starts[first:] - done, 0), places[first:]
    if len(held):
        yield _lay_out(held, starts, places, _cuts([len(held)], size, _least(frame)), frame)


def _starts(lengths: Array) -> Array:
    return np.cumsum(lengths, dtype=np.int64) - lengths


def _cuts(ends: Sequence[int], size: int, least: int) -> list[tuple[int, int]]:
    """Where each block begins and ends.

    Args:
        ends: Where each stretch ends that is cut by itself; the first begins at 0.
        size: Most tokens of a block.
        least: Fewest tokens of a stretch's last block, taken from the one before it.
    """
    cuts: list[tuple[int, int]] = []
    for start, end in pairwise([0, *ends]):
        begins = [*range(start, end, size)]
        if len(begins) > 1:
            begins[-1] = min(begins[-1], end - least)
        cuts += pairwise([*begins, end])
    return cuts


def _lay_out(
    held: Array, starts: Array, places: Array, cuts: list[tuple[int, int]], frame: Frame
) -> ExampleBlock:
    pieces: list[Array] = []
    kept: list[int] = []
    for begin, end in cuts:
        if frame.behind and tuple(held[end - 1 : end].tolist()) == frame.end:
            end -= 1  # what closes the block says the same
        if end - begin < _least(frame):
            continue
        pieces.append(np.concatenate([frame.before, held[begin:end], frame.behind]))
        kept.append(begin)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int32)
    ids = np.concatenate([np.zeros(0), *pieces]).astype(np.int32)
    weights: Array = np.ones(len(ids), np.float32)
    weights[_starts(lengths)] = 0
    documents = np.searchsorted(starts, kept, side="right") - 1
    none: Array = np.zeros(len(pieces), np.int32)
    return ExampleBlock(ids, weights, lengths, places[documents], none, np.zeros((0, 2), np.int64))
