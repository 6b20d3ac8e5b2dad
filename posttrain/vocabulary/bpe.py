"""A byte-level BPE tokenizer as a table of tokens and merges that can grow at its end.

Merges are tried in their order. What is appended is therefore tried only where the tokenizer has
done all it did before, on exactly the pieces it made: text without a new token keeps its encoding,
and a new token stands for a fixed series of old ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError

Merge = tuple[str, str]


def _byte_letters() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level vocabularies, reversed.

    Source:
        Radford et al. 2019, GPT-2, ``encoder.py``: bytes that print stand for themselves, the
        others for the characters from 256 on, in order.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTES = _byte_letters()


def to_bytes(token: str) -> bytes | None:
    """Bytes that a token stands for; None for one that is not written in byte letters."""
    try:
        return bytes(_BYTES[letter] for letter in token)
    except KeyError:
        return None


def to_text(token: str) -> str | None:
    """Text that a token stands for; None for a part of a character."""
    found = to_bytes(token)
    try:
        return found.decode() if found is not None else None
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True)
class ByteBpe:
    """A tokenizer's whole definition, and the merges added to it."""

    definition: dict[str, Any]
    """``tokenizer.json`` of the tokenizer before any addition."""
    added: tuple[Merge, ...] = field(default=())
    """Pairs of tokens, in the order in which they are tried after all older merges."""

    @cached_property
    def base_ids(self) -> dict[str, int]:
        """Id of every token before any addition, special tokens included."""
        special = {token["content"]: token["id"] for token in self.definition["added_tokens"]}
        return {**self.definition["model"]["vocab"], **special}

    @cached_property
    def first_new_id(self) -> int:
        """First id that is free: after all tokens, also special ones that follow the vocabulary."""
        return max(self.base_ids.values()) + 1

    @cached_property
    def new_ids(self) -> dict[str, int]:
        """Id of every added token, in the order of the merges."""
        return {left + right: self.first_new_id + n for n, (left, right) in enumerate(self.added)}

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """Id of every token."""
        return {**self.base_ids, **self.new_ids}

    @cached_property
    def backend(self) -> Any:
        """The tokenizer itself, without chat template and the like."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.to_json())

    def extend(self, merges: Iterable[Merge]) -> ByteBpe:
        """Return the tokenizer with more merges at its end; each must make a token of its own."""
        grown = ByteBpe(self.definition, (*self.added, *merges))
        assert len(grown.new_ids) == len(grown.added), "two merges make one token"
        assert not grown.new_ids.keys() & self.base_ids.keys(), "an old token is made anew"
        return grown

    def to_json(self) -> str:
        """Write it as ``tokenizer.json``."""
        model = self.definition["model"]
        # Special tokens that are not in the vocabulary are numbered from its size on when the file
        # is read. As it grows, they must be entries of it to keep their ids; no merge makes them.
        vocab = dict(sorted(self.token_ids.items(), key=lambda item: item[1]))
        grown = {**model, "vocab": vocab, "merges": [*model["merges"], *map(list, self.added)]}
        return json.dumps({**self.definition, "model": grown}, ensure_ascii=False)

    def expand(self) -> dict[int, tuple[int, ...]]:
        """Find the old ids that each new id stands for."""
        pieces: dict[int, tuple[int, ...]] = {}
        for left, right in self.added:
            parts = [self.token_ids[left], self.token_ids[right]]
            flat = tuple(piece for part in parts for piece in pieces.get(part, (part,)))
            pieces[self.token_ids[left + right]] = flat
        return pieces

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """Encode texts, without tokens around them."""
        return list(self.backend.encode_batch(list(texts), add_special_tokens=False))


def load_byte_bpe(tokenizer: Any, name: str) -> ByteBpe:
    """Look at a transformers tokenizer as byte-level BPE.

    Args:
        tokenizer: Loaded.
        name: For messages.

    Raises:
        ConfigError: It is of another kind: no merges can be added to it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refuse(name, "it has no fast (`tokenizers`) form")
    definition = json.loads(backend.to_str())
    model = definition["model"]
    if model["type"] != "BPE":
        raise _refuse(name, f"it is {model['type']}")
    if '"ByteLevel"' not in json.dumps(definition["pre_tokenizer"]):
        raise _refuse(name, "its BPE does not work on bytes (SentencePiece)")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise _refuse(name, f"it uses `{key}`")
    bare = {**definition, "truncation": None, "padding": None}
    return ByteBpe(bare)


def _refuse(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"tokenizer of {name}: only byte-level BPE can be extended, and {reason}",
        hint="use a model with a byte-level BPE tokenizer, such as Qwen3, Llama 3 or SmolLM",
    )


def save_tokenizer(tokenizer: Any, grown: ByteBpe, folder: Path) -> None:
    """Save a tokenizer with its special tokens, settings and chat template, and the new merges."""
    tokenizer.save_pretrained(folder)
    grown.backend.save(str(folder / "tokenizer.json"))
