"""A ready-made list of tokens -> the merges that reach them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from posttrain.data.readers import read_documents
from posttrain.errors import DataError
from posttrain.vocabulary.bpe import ByteBpe, Merge, to_text


@dataclass(frozen=True)
class Merged:
    """The extended tokenizer and what became of each line of the list."""

    bpe: ByteBpe
    wanted: tuple[str, ...]
    """Texts that are one token now."""
    refused: tuple[dict[str, object], ...]
    """``file``, ``line``, ``token`` and ``reason`` of the others."""


def merge_wanted(base: ByteBpe, path: Path) -> Merged:
    """Add the tokens of a list, with the shorter ones that lead to them.

    Args:
        base: The tokenizer to go on from.
        path: One token a line; spaces at its ends belong to it.

    Raises:
        DataError: The file cannot be read, or none of its tokens can be added.
    """
    lines = [(origin.line, row["text"]) for origin, row in read_documents(path, "line")]
    lines = [(number, text) for number, text in lines if text.strip()]
    encodings = base.encode([text for _, text in lines])
    merges: list[Merge] = []
    known = set(base.token_ids)
    wanted, refused = [], []
    for (number, text), encoding in zip(lines, encodings, strict=True):
        try:
            if len(set(encoding.word_ids)) > 1:
                raise ValueError("the tokenizer parts it in several words, as at spaces")
            found = list(_join(_apply(encoding.tokens, merges), known))
        except ValueError as error:
            refused.append({"file": str(path), "line": number, "token": text, "reason": str(error)})
            continue
        known.update("".join(pair) for pair in found)
        merges += found
        wanted.append(text)
    if not wanted:
        first = refused[0] if refused else {"line": 1, "reason": "the list is empty"}
        raise DataError(
            f"{path}:{first['line']}: no token of the list can be added: {first['reason']}",
            hint="give one word or phrase a line, without spaces inside",
        )
    return Merged(base.extend(merges), tuple(wanted), tuple(refused))


def _apply(tokens: Sequence[str], merges: Sequence[Merge]) -> list[str]:
    """Apply added merges to a word's tokens, in the order in which they were added."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    parts = list(tokens)
    while pairs := [pair for pair in pairwise(parts) if pair in ranks]:
        parts = _merge_everywhere(parts, min(pairs, key=ranks.__getitem__))
    return parts


def _merge_everywhere(parts: list[str], pair: Merge) -> list[str]:
    merged: list[str] = []
    position = 0
    while position < len(parts):
        joined = tuple(parts[position : position + 2]) == pair
        merged.append("".join(pair) if joined else parts[position])
        position += 2 if joined else 1
    return merged


def _join(parts: list[str], known: set[str]) -> Iterator[Merge]:
    """Yield the merges that make one token of a word's parts, parts of characters first.

    Raises:
        ValueError: It is one token already, or every way leads over a token that exists.
    """
    if len(parts) == 1:
        raise ValueError("it is one token already")
    taken = set(known)
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        free = [pair for pair in pairs if "".join(pair) not in taken]
        if not free:
            raise ValueError("its parts make a token that exists and is reached in another way")
        chosen = next((pair for pair in free if to_text(pair[0]) is None), free[0])
        yield chosen
        taken.add("".join(chosen))
        parts = _merge_everywhere(parts, chosen)
