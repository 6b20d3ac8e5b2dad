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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any

from posttrain.data.tokens.structure import BLANKS
from posttrain.files import cache_root, digest_json, load_json, write_json

_PRIVATE_PLANES = 0xF0000
_LOW_MARK, _HIGH_MARK = "\u0334", "\u0345"  # of the lowest and the highest combining class


@dataclass(frozen=True)
class Doubt:
    """Finds the characters on which the tokenizer itself must be asked."""

    quick: re.Pattern[str]
    """Found in every text that holds one, and in some others; a fast search."""
    exact: re.Pattern[str]

    def __call__(self, text: str) -> bool:
        """Whether a text holds one."""
        return bool(self.quick.search(text)) and bool(self.exact.search(text))


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
    key = digest_json({"version": 1, "classes": classes, "nfc": nfc, **versions()})
    path = cache_root() / "encoders" / f"characters-{key[:32]}.json"
    if path.exists():
        ranges = load_json(path)
    else:
        characters = _assigned()
        doubtful = set().union(*(_differ_in_class(name, characters) for name in classes))
        if nfc:
            doubtful |= _differ_in_form(characters)
        ranges = _ranges(set(map(chr, range(sys.maxunicode + 1))) - set(characters) | doubtful)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, ranges)
    low = [r for r in ranges if r[0] < 0x10000]
    return Doubt(_compile([*low, (0x10000, sys.maxunicode)]), _compile(ranges))


def _assigned() -> list[str]:
    """Characters that Python's edition of Unicode knows, without the planes for private use."""
    return [
        chr(code)
        for code in range(_PRIVATE_PLANES)
        if unicodedata.category(chr(code)) not in ("Cn", "Cs")
    ]


def _differ_in_class(name: str, characters: Sequence[str]) -> set[str]:
    from tiktoken import Encoding
    from tokenizers import Regex, pre_tokenizers

    text = "".join(characters)
    single = {bytes([byte]): byte for byte in range(256)}
    encoding = Encoding("class", pat_str=f"(?:{name})+", mergeable_ranks=single, special_tokens={})
    here = set(encoding.decode_bytes(encoding.encode_ordinary(text)).decode())
    split = pre_tokenizers.Split(Regex(f"(?:{name})+"), "removed")
    there = set(characters).difference(*(set(piece) for piece, _ in split.pre_tokenize_str(text)))
    # Texts are also cut at blanks, by a list of them.
    return (here ^ there) | (here ^ set(BLANKS) if name == r"\s" else set())


def _differ_in_form(characters: Sequence[str]) -> set[str]:
    from tokenizers import normalizers

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
    return doubtful


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


def _ranges(characters: Iterable[str]) -> list[tuple[int, int]]:
    codes = sorted(map(ord, characters))
    breaks = [i for i, (a, b) in enumerate(pairwise(codes), start=1) if b != a + 1]
    starts, ends = [0, *breaks], [*breaks, len(codes)]
    return [(codes[a], codes[b - 1]) for a, b in zip(starts, ends, strict=True) if codes]


def _compile(ranges: Iterable[Sequence[int]]) -> re.Pattern[str]:
    body = "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
    return re.compile(f"[{body}]")
