"""Which tokens may go on with a string inside JSON, or end it; for any tokenizer.

Tokens are taken as the bytes they stand for, so that a character may be spread over several.

Letters: V tokens of the vocabulary.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from posttrain.errors import ConfigError
from posttrain.items import is_blank

# UTF-8 without control characters, quotes and lone surrogates, and the escapes JSON needs here.
_CHARACTER = (
    rb'(?:[ !#-\[\]-~]|\\["\\/nt]|\xc2[\xa0-\xbf]|[\xc3-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]'
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}"
    rb"|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})"
)
_HALF = (
    rb"(?:\\|[\xc2-\xdf]|\xe0[\xa0-\xbf]?|[\xe1-\xec\xee\xef][\x80-\xbf]?|\xed[\x80-\x9f]?"
    rb"|\xf0(?:[\x90-\xbf][\x80-\xbf]?)?|[\xf1-\xf3][\x80-\xbf]{0,2}|\xf4(?:[\x80-\x8f][\x80-\xbf]?)?)"
)
_PATTERN = re.compile(
    b"(?P<body>" + _CHARACTER + b'*)(?P<rest>"(?P<close>.*)|' + _HALF + b"?)", re.DOTALL
)


class Place(NamedTuple):
    """Where in a string a token is to come; decides which ones may."""

    half: bytes
    """A character or escape that is half written."""
    first: bool
    """Whether no character is written yet."""
    last: bool
    """Whether the room is used up."""
    closing: str
    """What ends the string, from its quote on."""


class StringTokens:
    """The bytes that each token stands for, and which tokens fit where.

    Args:
        tokenizer: A transformers tokenizer.

    Raises:
        ConfigError: Its tokens do not stand for bytes of text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._name = tokenizer.name_or_path
        self.pieces = _read_pieces(tokenizer)
        self._by_byte: dict[int, list[int]] = {}
        for token, piece in enumerate(self.pieces):
            if piece:
                self._by_byte.setdefault(piece[0], []).append(token)
        self._whole = self._match(b"")
        self._starts = {t: m for t, m in self._whole.items() if not _starts_blank(m["body"])}
        if not self._starts:
            raise self.no_text()
        self._allowed: dict[Place, Tensor] = {}

    def find(self, text: str) -> int:
        """The token that is just this text.

        Raises:
            ConfigError: There is none.
        """
        if text.encode() not in self.pieces:
            raise self.no_text()
        return self.pieces.index(text.encode())

    def read(self, half: bytes, token: int) -> re.Match[bytes]:
        """Read a token that fits after ``half``.

        Returns:
            A match with ``body``, the finished characters; ``rest``, what follows them; and
            ``close``, which is None unless the rest starts with the quote that ends the string.
        """
        found = _PATTERN.fullmatch(half + (self.pieces[token] or b""))
        assert found is not None, "only tokens that fit are chosen"
        return found

    def allow(self, place: Place) -> Tensor:
        """Which tokens fit, [V] bool; at least one."""
        if place not in self._allowed:
            fitting = self._match(place.half) if place.half else self._whole
            if place.first:
                fitting = self._starts
            tokens = [token for token, found in fitting.items() if _ends_well(found, place)]
            # No token may end the half character at once: then it is ended byte by byte.
            tokens = tokens or [t for t in fitting if len(self.pieces[t] or b"") == 1]
            allowed_V = torch.zeros(len(self.pieces), dtype=torch.bool)
            allowed_V[tokens] = True
            self._allowed[place] = allowed_V
        return self._allowed[place]

    def no_text(self) -> ConfigError:
        """The error where no token fits: this is no tokenizer of text."""
        return ConfigError(
            f"the tokenizer {self._name} has no tokens of text",
            hint="items cannot be written with it",
        )

    def _match(self, half: bytes) -> dict[int, re.Match[bytes]]:
        """Tokens that go on with a string after ``half``, or end it."""
        matches = {}
        for byte, tokens in self._by_byte.items():
            # Only few first bytes go on with a half character; most tokens need no look.
            if half and not _PATTERN.fullmatch(half + bytes([byte])):
                continue
            for token in tokens:
                if found := _PATTERN.fullmatch(half + (self.pieces[token] or b"")):
                    matches[token] = found
        return matches


def _starts_blank(body: bytes) -> bool:
    return is_blank(unescape(body)[:1])


def _ends_well(found: re.Match[bytes], place: Place) -> bool:
    """Whether a token's end is what its place allows: the skeleton's closing, or more text."""
    if found["close"] is not None:
        return place.closing.encode().startswith(found["rest"])
    return not (place.last and found["rest"])


@lru_cache(maxsize=4)
def read_string_tokens(tokenizer: Any) -> StringTokens:
    """Look at a tokenizer's vocabulary, once per tokenizer."""
    return StringTokens(tokenizer)


def unescape(body: bytes) -> str:
    """The text that the inside of a JSON string stands for."""
    return str(json.loads(b'"' + body + b'"'))


def _read_pieces(tokenizer: Any) -> list[bytes | None]:
    """Bytes of each token; None for special tokens and marks such as ``<think>``."""
    added = tokenizer.added_tokens_decoder
    backend = getattr(tokenizer, "backend_tokenizer", None)
    byte_level = "ByteLevel" in str(backend.decoder if backend else "")
    read = _read_byte_level if byte_level else _read_sentencepiece
    pieces: list[bytes | None] = []
    for token, text in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        if token in added:
            own = added[token].content
            is_mark = added[token].special or (own.startswith("<") and own.endswith(">"))
            pieces.append(None if is_mark else own.encode())
        else:
            pieces.append(read(text) if text else None)
    return pieces


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE writes bytes as.

    Source: Radford et al. 2019 (GPT-2), encoder.py: printable bytes stand for themselves, the
    others for the code points from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _read_byte_level(text: str) -> bytes | None:
    try:
        return bytes(_ALPHABET[character] for character in text)
    except KeyError:
        return None


def _read_sentencepiece(text: str) -> bytes:
    if found := re.fullmatch(r"<0x([0-9A-F]{2})>", text):
        return bytes([int(found[1], 16)])
    return text.replace("\u2581", " ").encode()
