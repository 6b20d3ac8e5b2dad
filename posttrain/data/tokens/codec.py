"""From pieces of rendered text to token ids and loss weights.

A text is encoded once, whole, as the tokenizer itself and other libraries do. A prompt has the ids
of inference if encoding it alone gives the first ids of the whole; only the run of text in which
the prompt ends has to be looked at, since runs between added tokens do not know of each other.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np

from posttrain.data.records import RowError
from posttrain.data.templates import SHIELD, Piece, unshield
from posttrain.data.tokens.runs import ID_BYTES, Runs, find_added, pack_ids
from posttrain.data.tokens.structure import Structure

Array = np.ndarray[Any, Any]
# Runs that recur are kept: short ones such as "user\n" at once, system prompts the second time.
_KEPT_RUNS, _SEEN_RUNS, _SHORT_CHARACTERS = 512, 8192, 64
_SHOWN = 3
_LOOKED_AT = 64


class Encoded(NamedTuple):
    """The ids of some pieces."""

    token_ids: Array
    """[tokens] int32."""
    weights: Array
    """[tokens] float32; a token across two pieces belongs to the one in which it starts."""
    retokenized: bool
    """Whether encoding the whole text at once would give other ids, at the last trained piece."""


class Codec(Protocol):
    """Encodes texts that ``ChatRenderer`` has rendered, as the tokenizer itself does."""

    name: str
    """``tiktoken``, ``tokenizers`` or ``tokenizer``."""
    reason: str
    """Why no faster way is taken; empty for the fastest."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; nothing is put before or behind it.

        Args:
            text: Rendered, special tokens among its words shielded; or any other text.

        Raises:
            RowError: The tokenizer cannot read it as its author meant it.
        """

    def encode_pieces(self, pieces: Sequence[Piece], last: int | None = None) -> Encoded:
        """Encode the pieces of a conversation.

        Args:
            pieces: Whose texts join to the render.
            last: Number of the piece that a prompt of inference stands before; the last trained
                one that follows an untrained one where absent.

        Returns:
            Ids that begin with those of the prompt at inference.

        Raises:
            RowError: The tokenizer cannot read a text as its author meant it.
        """

    def take_samples(self) -> Samples:
        """Give what the spot checks since the last call have found."""


@dataclass(frozen=True)
class Samples:
    """Texts that were encoded both ways."""

    checked: int = 0
    differing: tuple[str, ...] = ()
    """Beginnings of the texts on which the two ways differ: an error of ours."""


class _Laid(NamedTuple):
    """A text's ids, and where some characters came to lie among them."""

    ids: bytes
    """int32, as ``Runs`` gives them."""
    places: list[int]
    """Tokens that start before each cut."""
    clean: list[bool]
    """Whether the text up to the cut, encoded alone, gives the ids before it."""


class SegmentCodec:
    """Cuts a text at its added tokens and encodes the runs between them.

    Args:
        tokenizer: Of transformers; asked in spot checks.
        structure: Of the tokenizer, runs checked.
        runs: Encodes what is between added tokens.
        name: Of the way.
        reason: Why it is not the fastest.
    """

    def __init__(
        self, tokenizer: Any, structure: Structure, runs: Runs, name: str, reason: str
    ) -> None:
        self.name, self.reason = name, reason
        self.sample_every = 256
        """Share of the texts to check against the tokenizer; chosen by their words. 0 checks
        none, 1 all."""
        self._tokenizer, self._runs = tokenizer, runs
        self._split = find_added(structure).split
        self._added = {token: pack_ids([number]) for token, number in structure.added.items()}
        self._kept: dict[str, bytes] = {}
        self._seen: set[int] = set()
        self._checked = 0
        self._differing: list[str] = []

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ids = self._lay(text, ()).ids
        self._check(text, ids)
        found: list[int] = _unpack(ids).tolist()
        return found

    def encode_pieces(self, pieces: Sequence[Piece], last: int | None = None) -> Encoded:
        """Encode the pieces of a conversation."""
        text = "".join([piece.text for piece in pieces])
        cuts = list(accumulate([len(piece.text) for piece in pieces]))
        weights = [piece.weight for piece in pieces]
        laid = self._lay(text, cuts)
        last = _last_start(weights) if last is None else last
        retokenized = last > 0 and not laid.clean[last - 1]
        if retokenized:
            start = cuts[last - 1]
            prompt = self._lay(text[:start], cuts[:last])
            rest = self._lay(text[start:], [cut - start for cut in cuts[last:]])
            ids = prompt.ids + rest.ids
            before = len(prompt.ids) // ID_BYTES
            places = prompt.places + [before + place for place in rest.places]
        else:
            ids, places = laid.ids, laid.places
        self._check(text, laid.ids)
        token_ids = _unpack(ids)
        spread: Array = np.zeros(len(token_ids), dtype=np.float32)
        begin = 0
        for weight, end in zip(weights, places, strict=True):
            if weight:
                spread[begin:end] = weight
            begin = end
        return Encoded(token_ids, spread, retokenized)

    def take_samples(self) -> Samples:
        """Give what the spot checks since the last call have found."""
        samples = Samples(self._checked, tuple(self._differing))
        self._checked, self._differing = 0, []
        return samples

    def _lay(self, text: str, cuts: Sequence[int]) -> _Laid:
        """Encode a text and find the tokens at some characters, given in order."""
        chunks: list[bytes] = []
        places: list[int] = []
        clean: list[bool] = []
        kept, added = self._kept, self._added
        count, begin, is_added = 0, 0, False
        left = iter(cuts)
        cut = next(left, -1)
        for part in self._split(text):
            ids = added[part] if is_added else (part and (kept.get(part) or self._run(part))) or b""
            size, end = len(ids) // ID_BYTES, begin + len(part)
            while begin <= cut <= end:
                inside, is_clean = size, True
                if cut == begin:
                    inside = 0
                elif cut < end:
                    is_clean = not is_added
                    if is_clean:
                        inside, is_clean = self._find(part, cut - begin, ids)
                places.append(count + inside)
                clean.append(is_clean)
                cut = next(left, -1)
            chunks.append(ids)
            count, begin, is_added = count + size, end, not is_added
        return _Laid(b"".join(chunks), places, clean)

    def _find(self, part: str, inside: int, ids: bytes) -> tuple[int, bool]:
        """Tokens before a character of a run, and whether the text up to it has just these."""
        start = part[:inside]
        left = self._kept.get(start) or self._run(start)
        if ids.startswith(left):
            return len(left) // ID_BYTES, True
        if SHIELD in part:
            inside -= part.count(SHIELD, 0, inside)
            part = unshield(part)
        return self._runs.count_before(part, inside), False

    def _run(self, part: str) -> bytes:
        """Encode a run that is not kept, and keep it if it is likely to come again."""
        found = self._runs.encode(unshield(part))
        if len(part) <= _SHORT_CHARACTERS or hash(part) in self._seen:
            if len(self._kept) >= _KEPT_RUNS:
                self._kept.clear()
            self._kept[part] = found
        else:
            if len(self._seen) >= _SEEN_RUNS:
                self._seen.clear()
            self._seen.add(hash(part))
        return found

    def _check(self, text: str, ids: bytes) -> None:
        if not self.sample_every or SHIELD in text:
            return
        # By its words, so that the choice does not depend on how rows are shared out; by the last
        # ones and the length, for a whole text takes 3 % of all the time.
        end = text[-_LOOKED_AT:].encode("utf-8", "surrogatepass")
        if zlib.crc32(end, len(text)) % self.sample_every == 0:
            self._checked += 1
            if ids != pack_ids(_ask(self._tokenizer, text)) and len(self._differing) < _SHOWN:
                self._differing.append(text[:200])


def _unpack(ids: bytes) -> Array:
    return np.frombuffer(ids, dtype=np.int32)


class WholeCodec:
    """Gives the tokenizer whole texts; for those whose runs may know of each other.

    Args:
        tokenizer: Of transformers.
        reason: Why it is not a faster way.
    """

    name = "tokenizer"

    def __init__(self, tokenizer: Any, reason: str) -> None:
        self.reason = reason
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        _check_plain(text)
        return _ask(self._tokenizer, text)

    def encode_pieces(self, pieces: Sequence[Piece], last: int | None = None) -> Encoded:
        """Encode the pieces of a conversation: by themselves where that is the same."""
        text = "".join(piece.text for piece in pieces)
        _check_plain(text)
        parts = [_ask(self._tokenizer, piece.text) for piece in pieces]
        whole = _ask(self._tokenizer, text)
        joined = _join(pieces, parts)
        if joined.token_ids.tolist() == whole or not self._tokenizer.is_fast:
            retokenized = joined.token_ids.tolist() != whole
            return Encoded(joined.token_ids, joined.weights, retokenized)
        if last is None:
            last = _last_start([piece.weight for piece in pieces])
        return self._encode_across(pieces, parts, last)

    def take_samples(self) -> Samples:
        """Nothing is sampled: this is the tokenizer itself."""
        return Samples()

    def _encode_across(
        self, pieces: Sequence[Piece], parts: Sequence[Sequence[int]], last: int
    ) -> Encoded:
        """Encode pieces that cannot be encoded one by one.

        The text before the last one is encoded in one go, as at inference. What follows
        keeps the ids of the whole where they go on from there, and is encoded by itself elsewhere.
        """
        prompt = self._encode_by_place(pieces[:last])
        whole = self._encode_by_place(pieces)
        if whole.token_ids[: len(prompt.token_ids)].tolist() == prompt.token_ids.tolist():
            return whole
        rest = _join(pieces[last:], parts[last:])
        ids = np.concatenate([prompt.token_ids, rest.token_ids])
        return Encoded(ids, np.concatenate([prompt.weights, rest.weights]), retokenized=True)

    def _encode_by_place(self, pieces: Sequence[Piece]) -> Encoded:
        """Encode the joined text; a token belongs to the piece in which it starts."""
        text = "".join(piece.text for piece in pieces)
        encoded = self._tokenizer(text, return_offsets_mapping=True, **_OPTIONS)
        weights = np.array([piece.weight for piece in pieces], dtype=np.float32)
        characters: Array = np.repeat(weights, [len(piece.text) for piece in pieces])
        starts = np.array([start for start, _ in encoded["offset_mapping"]], dtype=np.int64)
        ids = np.array(encoded["input_ids"], dtype=np.int32)
        return Encoded(ids, characters[starts], retokenized=False)


def _last_start(weights: Sequence[float]) -> int:
    """Number of the last trained piece that follows an untrained one: a prompt ends there."""
    starts = (i for i in range(len(weights) - 1, 0, -1) if weights[i] and not weights[i - 1])
    return next(starts, 0)


_OPTIONS = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}


def _ask(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, **_OPTIONS)["input_ids"])


def _join(pieces: Sequence[Piece], parts: Sequence[Sequence[int]]) -> Encoded:
    ids = np.fromiter((t for part in parts for t in part), dtype=np.int32)
    weights = np.array([piece.weight for piece in pieces], dtype=np.float32)
    return Encoded(ids, np.repeat(weights, [len(part) for part in parts]), retokenized=False)


def _check_plain(text: str) -> None:
    if SHIELD in text:
        raise RowError(
            "a text holds a special token", "this tokenizer cannot be made to read it as text"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("a text is not valid Unicode", error.reason) from None
