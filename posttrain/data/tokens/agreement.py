"""On which characters two libraries agree, asked of the versions that are installed here.

tiktoken cuts words with one regex engine, the tokenizers library with another; each brings its own
edition of Unicode, and Python a third one. A pattern's verdict depends on a character only through
the classes it belongs to, so every class that a pattern names is asked of both engines for every
character. Normal forms are asked for likewise: what a character decomposes to, what composes to
it, and its place among combining marks. Characters in doubt are given to the tokenizer itself.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any

from posttrain.data.tokens.kept import keep, kept_path, take_kept
from posttrain.data.tokens.structure import BLANKS
from posttrain.files import digest_json

_PRIVATE_PLANES = 0xF0000
_LOW_MARK, _HIGH_MARK = "\u0334", "\u0345"  # of the lowest and the highest combining class


@dataclass(frozen=True)
class Doubt:
    """Finds the characters on which the tokenizer itself must be asked."""

    odd: re.Pattern[str]
    """Matches these, and besides them blanks that ASCII has not, and all from U+10000 up: a search
    for thousands of ranges is slow, and few texts hold any of all these."""
    starts: tuple[int, ...]
    """First code point of each range of doubtful characters, rising."""
    ends: tuple[int, ...]
    """Last code point of each range."""

    def holds(self, character: str) -> bool:
        """Whether a character is in doubt."""
        code = ord(character)
        place = bisect_right(self.starts, code) - 1
        return place >= 0 and code <= self.ends[place]


def versions() -> dict[str, str]:
    """Versions of all that takes part."""
    packages = {name: version(name) for name in ("tokenizers", "tiktoken")}
    return {"python": sys.version, "unicode": unicodedata.unidata_version, **packages}


@lru_cache(maxsize=8)
def find_doubt(classes: tuple[str, ...], *, nfc: bool) -> Doubt:
    """Find the characters on which the libraries differ, or take them from the cache.

    Args:
        classes: Classes of characters that a pattern names, as regular expressions.
        nfc: Whether texts are brought to normal form C.
    """
    key = digest_json({"version": 3, "classes": classes, "nfc": nfc, **versions()})
    path = kept_path(f"characters-{key[:32]}")
    ranges = take_kept(path)
    if ranges is None:
        doubtful = set().union(*map(_differ_in_class, classes))
        if nfc:
            doubtful |= _differ_in_form()
        ranges = _ranges_without(set(_assigned()) - doubtful)
        keep(path, ranges)
    low = [(first, last) for first, last in ranges if first < 0x10000]
    blanks = [(ord(blank), ord(blank)) for blank in BLANKS if not blank.isascii()]
    odd = "".join(
        f"\\U{first:08x}-\\U{last:08x}"
        for first, last in [*low, *blanks, (0x10000, sys.maxunicode)]
    )
    starts, ends = zip(*ranges, strict=True)
    return Doubt(re.compile(f"[{odd}]"), starts, ends)


@lru_cache(maxsize=1)
def _assigned() -> tuple[str, ...]:
    """Characters that Python's edition of Unicode knows, without the planes for private use."""
    characters = map(chr, range(_PRIVATE_PLANES))
    return tuple(c for c in characters if unicodedata.category(c) not in ("Cn", "Cs"))


@lru_cache(maxsize=64)
def _differ_in_class(name: str) -> frozenset[str]:
    from tiktoken import Encoding
    from tokenizers import Regex, pre_tokenizers

    text = "".join(_assigned())
    single = {bytes([byte]): byte for byte in range(256)}
    encoding = Encoding("class", pat_str=f"(?:{name})+", mergeable_ranks=single, special_tokens={})
    here = set(encoding.decode_bytes(encoding.encode_ordinary(text)).decode())
    split = pre_tokenizers.Split(Regex(f"(?:{name})+"), "removed")
    there = set(text).difference("".join(piece for piece, _ in split.pre_tokenize_str(text)))
    # Texts are also cut at blanks, by a list of them.
    return frozenset((here ^ there) | (here ^ set(BLANKS) if name == r"\s" else set()))


@lru_cache(maxsize=1)
def _differ_in_form() -> frozenset[str]:
    from tokenizers import normalizers

    characters = _assigned()
    composed, decomposed = normalizers.NFC(), normalizers.NFD()
    doubtful = _compare("NFC", composed.normalize_str, characters)
    doubtful |= _compare("NFD", decomposed.normalize_str, characters)
    apart = [unicodedata.normalize("NFD", c) for c in characters]
    doubtful |= _compare("NFC", composed.normalize_str, apart)
    # Which of two marks goes first tells their classes apart; a character that is none parts them.
    for one, other in ((_HIGH_MARK, _LOW_MARK), ("", _LOW_MARK), (_HIGH_MARK, "")):
        around = [f"{one}{c}{other}" for c in characters]
        doubtful |= _compare("NFD", decomposed.normalize_str, around, ignore={one, other})
    marks = [c for c in characters if unicodedata.combining(c) and c not in doubtful]
    for mark in {unicodedata.combining(c): c for c in marks}.values():
        for pairs in ([c + mark for c in marks], [mark + c for c in marks]):
            doubtful |= _compare("NFD", decomposed.normalize_str, pairs, ignore={mark})
    return frozenset(doubtful)


def _compare(
    form: Any, normalize: Callable[[str], str], texts: Sequence[str], ignore: Iterable[str] = ()
) -> set[str]:
    """Characters of the texts that Python normalizes otherwise, and of what comes of them."""
    lines = [text for text in texts if "\n" not in text]
    ours = unicodedata.normalize(form, "\n".join(lines)).split("\n")
    theirs = normalize("\n".join(lines)).split("\n")
    found: set[str] = set()
    for text, one, other in zip(lines, ours, theirs, strict=True):
        if one != other:
            found.update(text, one, other)
    return found - set(ignore)


def _ranges_without(characters: Iterable[str]) -> list[tuple[int, int]]:
    """Stretches of code points that have none of some characters."""
    codes = [-1, *sorted(map(ord, characters)), sys.maxunicode + 1]
    return [(a + 1, b - 1) for a, b in pairwise(codes) if b - a > 1]
