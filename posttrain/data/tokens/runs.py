"""Two ways to encode a run of text that holds no added token: tiktoken's, and the tokenizer's."""

from __future__ import annotations

import json
import re
import unicodedata
from array import array
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from posttrain.data.records import RowError
from posttrain.data.tokens.agreement import Doubt, find_doubt
from posttrain.data.tokens.ranks import Ranks
from posttrain.data.tokens.structure import SimplePattern, Structure, atoms

ID_BYTES = 4
_NEVER_ASKED = "\0posttrain\0"
_NOTHING: set[str] = set()


def pack_ids(ids: Iterable[int]) -> bytes:
    """Write token ids one behind the other, as int32: a list of numbers takes twice the time."""
    return array("i", ids).tobytes()


class Runs(Protocol):
    """Encodes text in which no added token is looked for."""

    def encode(self, text: str) -> bytes:
        """Token ids of a text, as int32; no text has none."""

    def count_before(self, text: str, place: int) -> int:
        """Tokens of a text that start before a character."""


class StockRuns:
    """The tokenizer itself, in a copy without its added tokens.

    Args:
        structure: Of the tokenizer.
    """

    def __init__(self, structure: Structure) -> None:
        self._structure = structure

    def encode(self, text: str) -> bytes:
        """Token ids of a text."""
        return pack_ids(self._read(text).ids)

    def count_before(self, text: str, place: int) -> int:
        """Tokens of a text that start before a character."""
        return sum(start < place for start, _ in self._read(text).offsets)

    def _read(self, text: str) -> Any:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            # Half of a surrogate pair, which JSON can write as an escape and no tokenizer can read.
            raise RowError("a text is not valid Unicode", error.reason) from None
        return self._copy.encode(text, add_special_tokens=False)

    @cached_property
    def _copy(self) -> Any:
        from tokenizers import Tokenizer

        bare: dict[str, Any] = {
            "added_tokens": [],
            "truncation": None,
            "padding": None,
            "post_processor": None,
        }
        return Tokenizer.from_str(json.dumps({**self._structure.state, **bare}))


class FastRuns:
    """tiktoken over the tokenizer's own vocabulary; the tokenizer itself where they may differ.

    Args:
        structure: Of the tokenizer, checked.
        ranks: Its tokens in the order in which they are made.

    Raises:
        NotProven: The tokenizer's parts are not ones that have been compared.
    """

    def __init__(self, structure: Structure, ranks: Ranks) -> None:
        from tiktoken import Encoding

        pattern = structure.find_pattern()
        self._stock = StockRuns(structure)
        self._nfc = structure.needs_nfc()
        self._doubt: Doubt = find_doubt(atoms(pattern), nfc=self._nfc)
        simple = SimplePattern.of(pattern)
        self._cuts, self._signs = simple.cuts.finditer, simple.signs
        order = ranks.order
        # Where ids rise in the order of merges, they serve as ranks: single bytes are never made.
        rising = [*ranks.merged, *ranks.whole]
        self._ids = None if rising == sorted(rising) else np.array(order, dtype=np.int32)
        numbers = order if self._ids is None else range(len(order))
        mergeable = dict(zip(ranks.spell(), numbers, strict=True))
        # One special token, which is never asked for: the search for none takes each character.
        encoding = Encoding(
            "run",
            pat_str=simple.pattern,
            mergeable_ranks=mergeable,
            special_tokens={_NEVER_ASKED: max(numbers) + 1},
        )
        self._core = encoding._core_bpe.encode_to_tiktoken_buffer

    def encode(self, text: str) -> bytes:
        """Token ids of a text."""
        cut = False
        if not text.isascii():
            if self._doubt.odd.search(text):
                if any(map(self._doubt.holds, self._doubt.odd.findall(text))):
                    return self._stock.encode(text)
                cut = True
            if self._nfc:
                text = unicodedata.normalize("NFC", text)
        if not cut:
            for sign in self._signs:
                if sign in text:
                    cut = True
                    break
        found = self._encode_cut(text) if cut else bytes(self._core(text, _NOTHING))
        if self._ids is None:
            return found
        return self._ids[np.frombuffer(found, dtype=np.int32)].tobytes()

    def _encode_cut(self, text: str) -> bytes:
        found = []
        begin = 0
        for blank in self._cuts(text):
            end = blank.start() + 1
            found.append(self._core(text[begin:end], _NOTHING))
            begin = end
        found.append(self._core(text[begin:], _NOTHING))
        return b"".join(found)

    def count_before(self, text: str, place: int) -> int:
        """Tokens of a text that start before a character."""
        return self._stock.count_before(text, place)


def find_added(structure: Structure) -> re.Pattern[str]:
    """Match added tokens as the tokenizers library does: the leftmost, and of these the longest."""
    longest_first = sorted(structure.added, key=lambda token: (-len(token), token))
    body = "|".join(map(re.escape, longest_first)) or "(?!)"
    return re.compile(f"({body})")
