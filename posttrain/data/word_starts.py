"""Which tokens begin a word, as the tokenizer itself parts texts into words.

Letters: T tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from posttrain.data.tokens.ranks import byte_letters
from posttrain.errors import ConfigError

Array = np.ndarray[Any, Any]
_LONE_BYTE = range(0xDC80, 0xDD00)
_REPLACEMENT = "\ufffd"


class WordStarts:
    """Finds the beginnings of words among token ids, as ``word_ids`` of an encoded text would.

    WordPiece and SentencePiece mark them in the tokens. A byte-level vocabulary does not: there
    ``cat`` and ``,`` are two words without a blank between them, so its pre-tokenizer is asked.

    Args:
        tokenizer: Of transformers, with the ``tokenizers`` library behind it.

    Raises:
        ConfigError: It parts words in none of these ways.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        state = json.loads(backend.to_str()) if backend is not None else {"model": {}}
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        parts = {part["type"]: part for part in _list_parts(state.get("pre_tokenizer"))}
        added = tokenizer.added_tokens_decoder
        self._added_V: Array = np.isin(np.arange(len(tokens)), list(added))
        self._starts_V: Array | None = None
        if state["model"].get("type") == "WordPiece":
            prefix = state["model"]["continuing_subword_prefix"]
            self._starts_V = np.array([not (t or "").startswith(prefix) for t in tokens])
        elif "Metaspace" in parts:
            blank = parts["Metaspace"]["replacement"]
            self._starts_V = np.array([(t or "").startswith(blank) for t in tokens])
        elif "ByteLevel" in parts:
            letters = byte_letters()
            self._bytes_V = [
                str(added[i]).encode() if i in added else bytes(letters[c] for c in token or "")
                for i, token in enumerate(tokens)
            ]
            self._words = backend.pre_tokenizer
        else:
            raise ConfigError(
                f"mask.units: it is not known where words begin in {tokenizer.name_or_path}",
                hint="set mask.units=tokens",
            )

    def find(self, ids_T: Array) -> Array:
        """Mark the tokens that begin a word.

        Args:
            ids_T: A stretch of text, [T], without special tokens inside.

        Returns:
            [T] bool; the first is always true.
        """
        starts_T = self._starts_V[ids_T] if self._starts_V is not None else self._ask(ids_T)
        added_T = self._added_V[ids_T]  # found before anything is parted into words
        starts_T |= added_T
        starts_T[1:] |= added_T[:-1]
        starts_T[:1] = True
        return starts_T

    def _ask(self, ids_T: Array) -> Array:
        pieces = [self._bytes_V[i] for i in ids_T]
        # Where a character is cut in two, its bytes stay one by one, so that places can be counted.
        text = b"".join(pieces).decode("utf-8", "surrogateescape")
        shown = "".join(_REPLACEMENT if ord(c) in _LONE_BYTE else c for c in text)
        sizes = [1 if ord(c) in _LONE_BYTE else len(c.encode()) for c in text]
        places = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        words = [places[begin] for _, (begin, _) in self._words.pre_tokenize_str(shown)]
        begins_T = np.cumsum([0, *map(len, pieces[:-1])])
        found: Array = np.isin(begins_T, words)
        return found


def _list_parts(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield a pre-tokenizer's parts, whatever they are nested in."""
    if part is None:
        return
    yield part
    for inner in part.get("pretokenizers", ()):
        yield from _list_parts(inner)
