"""Whether merging by rank of the result is merging by the tokenizer's list of merges.

The tokenizer joins the neighbours (L, R) that stand first in its list; tiktoken joins neighbours
whose joined bytes are a token, the one of lowest rank first. Call a token reachable if the
tokenizer's list makes it, and nothing more or less, of its own bytes; the last pair of that run is
the token's pair. Then give tiktoken the reachable tokens alone, each with the place of its pair in
the list as its rank.

Why the two then agree on every text. Let X, Y be neighbours at some moment of the tokenizer's run.
Nothing has been joined across the ends of XY yet, so the joins within XY were those that a run on
XY alone makes, in the same order: each was the first in the list among all, hence among those
within, and which joins are possible within depends on nothing outside. So the run on XY alone also
comes to the state X, Y. If (X, Y) is in the list, its next step joins them: XY is reachable and
(X, Y) is its pair. If it is not, the run ends there, and XY is not reachable. Hence at every moment
both may join the same neighbours, in the same order of preference; and both take the leftmost of
equals.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from posttrain.data.tokens.structure import NotProven, Structure

# Bytes that no UTF-8 text has; a vocabulary may lack them.
_NEVER = frozenset([0xC0, 0xC1, *range(0xF5, 0x100)])


@dataclass(frozen=True)
class Ranks:
    """Tokens in the order in which they are made."""

    singles: list[int]
    """Ids of the tokens of one byte."""
    merged: list[int]
    """Ids of reachable tokens, those first whose pair stands first in the list of merges."""
    whole: list[int]
    """Ids of tokens that come about only where they are a whole word."""
    lengths: list[int]
    """Bytes of each of these tokens, in this order."""
    spelled: str
    """All their bytes, one behind the other, as base64."""

    @property
    def order(self) -> list[int]:
        """Ids of all tokens that are made."""
        return [*self.singles, *self.merged, *self.whole]

    def spell(self) -> list[bytes]:
        """Return the bytes of each token, in order."""
        joined = base64.b64decode(self.spelled)
        bounds = accumulate(self.lengths, initial=0)
        return [joined[begin:end] for begin, end in pairwise(bounds)]


def rank_tokens(structure: Structure) -> Ranks:
    """Find each token's rank.

    Raises:
        NotProven: A byte has no token; or a token that the merges do not make would be made.
    """
    vocabulary: dict[str, int] = structure.model["vocab"]
    bytes_of = byte_letters()
    for letter, byte in bytes_of.items():
        if letter not in vocabulary and byte not in _NEVER:
            raise NotProven(f"the byte {byte:#04x} has no token")
    places = {(left, right): i for i, (left, right) in enumerate(structure.model["merges"])}
    alphabet = frozenset(bytes_of)
    ranked: list[tuple[int, int]] = []
    whole: list[int] = []
    for token, number in vocabulary.items():
        if len(token) < 2 or not alphabet.issuperset(token):
            continue
        left, pair = merge(token, places)
        if len(left) == 1:
            ranked.append((places[pair], number))
        elif structure.model.get("ignore_merges"):
            # A word that is a token is taken as such, whatever the merges say. Given to tiktoken,
            # it would also be made within words, of two neighbours; unless they never meet.
            if len(left) == 2:
                raise NotProven("a token stands for a whole word only, and not within words")
            whole.append(number)
    singles = [vocabulary[letter] for letter in bytes_of if letter in vocabulary]
    merged = [number for _, number in sorted(ranked)]
    names = {number: token for token, number in vocabulary.items()}
    tokens = [names[number] for number in (*singles, *merged, *whole)]
    letters = "".join(tokens).translate({ord(letter): byte for letter, byte in bytes_of.items()})
    spelled = base64.b64encode(letters.encode("latin-1")).decode()
    return Ranks(singles, merged, whole, [*map(len, tokens)], spelled)


def merge(word: Iterable[str], places: dict[tuple[str, str], int]) -> tuple[list[str], Any]:
    """Merge a word as byte-pair encoding does.

    Args:
        word: Its first parts.
        places: Pairs that may be joined, with their place in the list.

    Returns:
        The last parts, and the pair that was joined last.
    """
    parts = list(word)
    pair: Any = None
    last = len(places)
    order = [places.get(neighbours, last) for neighbours in pairwise(parts)]
    while order and (best := min(order)) < last:
        at = order.index(best)
        pair = (parts[at], parts[at + 1])
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del order[at]
        for left in range(max(at - 1, 0), min(at + 1, len(order))):
            order[left] = places.get((parts[left], parts[left + 1]), last)
    return parts, pair


def byte_letters() -> dict[str, int]:
    """Give the letter that stands for each byte in byte-level vocabularies.

    Printable bytes of Latin-1 stand for themselves, the others for what follows U+0100.

    Source:
        Radford et al. 2019 (GPT-2), the published encoder's table.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    letters.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return dict(sorted(letters.items(), key=lambda item: item[1]))
