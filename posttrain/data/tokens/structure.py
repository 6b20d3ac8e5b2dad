"""What a tokenizer is made of, read once, and whether its parts are ones that we can vouch for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LAST = r"|\s+(?!\S)|\s+"
_END = rf"\s*[\r\n]+{_LAST}"
BLANKS = (
    "\t\n\v\f\r \x85\xa0\u1680"
    + "".join(map(chr, range(0x2000, 0x200B)))
    + ("\u2028\u2029\u202f\u205f\u3000")
)
"""What both engines take for blanks, as ``agreement`` makes sure."""
_LETTERS_OF_CASES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
_CASES = "|".join(_LETTERS_OF_CASES)
_CASES_CONTRACTED = "|".join(f"{part}{_CONTRACTIONS}?" for part in _LETTERS_OF_CASES)
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_PUNCTUATION_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_PUNCTUATION}|{_END}"
QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|"
    rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_END}"
)
LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_PUNCTUATION}|{_END}"
O200K = rf"{_CASES_CONTRACTED}|\p{{N}}{{1,3}}|{_PUNCTUATION_SLASH}|{_END}"
TEKKEN = rf"{_CASES}|\p{{N}}|{_PUNCTUATION_SLASH}|{_END}"

PATTERNS = {
    "gpt2": GPT2,
    "qwen2": QWEN2,
    "qwen3.5": QWEN35,
    "llama3": LLAMA3,
    "o200k": O200K,
    "tekken": TEKKEN,
}
"""Patterns on which both regex engines have been compared, character by character."""

_NAMES = {pattern: name for name, pattern in PATTERNS.items()}
_MODEL = ',"model":'
_PARTS = {"added_tokens", "normalizer", "pre_tokenizer"}
# Pre-tokenizers and normalizers that treat each run between added tokens alike, wherever it is.
_EVERYWHERE_ALIKE = {
    "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation",
    "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit",
    "BertNormalizer", "ByteFallback", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt",
    "Precompiled", "Prepend", "Replace", "Strip", "StripAccents",
}  # fmt: skip


class NotProven(Exception):  # noqa: N818 - no error: another way is taken
    """This way of encoding cannot be shown to be the tokenizer's own; says why."""


@dataclass(frozen=True)
class Structure:
    """A tokenizer's parts, as its library writes them down."""

    text: str
    """All of it, as JSON."""
    parts: dict[str, Any]
    """All but the model, whose vocabulary and merges take half a second to read."""

    @classmethod
    def read(cls, tokenizer: Any) -> Structure:
        """Read a tokenizer's parts.

        Raises:
            NotProven: It is written in Python, or reads special tokens in a way of its own.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or not tokenizer.is_fast:
            raise NotProven("the tokenizer is written in Python")
        if getattr(tokenizer, "split_special_tokens", False):
            raise NotProven("the tokenizer reads special tokens as text")
        text = backend.to_str()
        # Within a JSON string the quotes would be escaped. A special token of a post-processor may
        # be such a key; what stands before that one is no JSON, and all is read.
        try:
            parts = json.loads(text.partition(_MODEL)[0] + "}")
        except ValueError:
            parts = {}
        if not parts.keys() >= _PARTS:
            parts = json.loads(text)
            del parts["model"]
        return cls(text, parts)

    @cached_property
    def state(self) -> dict[str, Any]:
        """All of it."""
        found: dict[str, Any] = json.loads(self.text)
        return found

    @property
    def model(self) -> dict[str, Any]:
        """Vocabulary and merges."""
        found: dict[str, Any] = self.state["model"]
        return found

    @cached_property
    def added(self) -> dict[str, int]:
        """Ids of the tokens that are found in a text before anything else is done to it."""
        return {t["content"]: t["id"] for t in self.parts["added_tokens"] if t["content"]}

    def check_runs(self) -> None:
        """Check that the runs of text between added tokens are encoded each by itself.

        Raises:
            NotProven: An added token takes in what stands beside it, or is looked for in a changed
                text; or a run at the start of a text is encoded otherwise than one within.
        """
        tokens = [t for t in self.parts["added_tokens"] if t["content"]]
        for token in tokens:
            if token["lstrip"] or token["rstrip"] or token["single_word"]:
                raise NotProven(f"the token {token['content']!r} looks at the text beside it")
            if token["normalized"] and self.parts["normalizer"]:
                raise NotProven(f"the token {token['content']!r} is looked for in a changed text")
        # The library looks for tokens of the one kind first, for the others in what is left.
        early = [t["content"] for t in tokens if not t["normalized"]]
        late = [t["content"] for t in tokens if t["normalized"]]
        for one, other in ((a, b) for a in early for b in late if _overlap(a, b)):
            raise NotProven(f"the tokens {one!r} and {other!r} may lie across each other")
        for part in (*_flatten(self.parts["pre_tokenizer"]), *_flatten(self.parts["normalizer"])):
            if part["type"] not in _EVERYWHERE_ALIKE or part.get("prepend_scheme") == "first":
                raise NotProven(f"{part['type']} may treat the start of a text otherwise")

    def find_pattern(self) -> str:
        """Return the pattern that cuts a run into words.

        Raises:
            NotProven: It is cut in another way, or by a pattern that has not been compared.
        """
        parts = list(_flatten(self.parts["pre_tokenizer"]))
        level = parts[-1] if parts else {"type": "nothing"}
        if level["type"] != "ByteLevel" or level["add_prefix_space"]:
            raise NotProven("words are not read as bytes")
        if len(parts) == 1 and level["use_regex"]:
            return GPT2
        if len(parts) != 2 or parts[0]["type"] != "Split" or level["use_regex"]:
            raise NotProven("words are not cut by one pattern")
        split = parts[0]
        pattern = split["pattern"].get("Regex", "")
        if split["behavior"] != "Isolated" or split["invert"] or pattern not in _NAMES:
            raise NotProven("the pattern that cuts words has not been compared")
        return str(pattern)

    def needs_nfc(self) -> bool:
        """Whether text is brought to normal form C first.

        Raises:
            NotProven: More is done to it.
        """
        kinds = {part["type"] for part in _flatten(self.parts["normalizer"])}
        if kinds - {"NFC"}:
            raise NotProven(f"the normalizer is {', '.join(sorted(kinds))}")
        return bool(kinds)

    def check_model(self) -> None:
        """Check that words are merged from bytes, and nothing else.

        Raises:
            NotProven: The model is another, or has an option that changes what it does.
        """
        model = self.model
        options = ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
        if model["type"] != "BPE" or any(model.get(name) for name in options):
            raise NotProven("the model is not byte-level BPE alone")
        if len(set(model["vocab"].values())) != len(model["vocab"]):
            raise NotProven("two tokens share an id")


@dataclass(frozen=True)
class SimplePattern:
    r"""A pattern that needs no lookahead, if a text is cut at some places before.

    The lookahead of ``\s+(?!\S)`` leaves the last of several blanks to the word behind them. So a
    word always begins with that blank: no alternative takes in two blanks but those for blanks
    alone, and these end before it. Cut there, a text needs no lookahead: blanks at the end of a
    part are taken whole, and one that stands alone is taken with or without it. Regex engines run
    such patterns twice as fast, and in bounded memory.
    """

    pattern: str
    cuts: re.Pattern[str]
    """Found one character before each cut."""
    signs: tuple[str, ...]
    """One of these is in every text that must be cut, unless it has blanks that ASCII has not."""

    @classmethod
    def of(cls, pattern: str) -> SimplePattern:
        """Simplify one of ``PATTERNS``."""
        assert pattern.endswith(_LAST)
        lines = pattern.endswith(_END)
        last = "".join(b for b in BLANKS if b not in "\r\n") if lines else BLANKS
        cuts = re.compile(f"[{BLANKS}][{last}](?=[^{BLANKS}])")
        signs = ("  ", "\t", "\n ", "\r ", "\v", "\f", *(() if lines else ("\n", "\r")))
        return cls(pattern.removesuffix(_LAST) + r"|\s+", cuts, signs)


def atoms(pattern: str) -> tuple[str, ...]:
    r"""Give the classes of characters that a pattern speaks of, such as ``\p{L}``."""
    classes = re.findall(r"\\p\{[A-Z][a-z]?\}|\\[sS]", pattern)
    letters = "".join(re.findall(r"\(\?i:([^)]*)\)", pattern))
    folded = [f"(?i:{c})" for c in sorted(set(letters) & set("abcdefghijklmnopqrstuvwxyz"))]
    return tuple(dict.fromkeys([*sorted(classes), *folded]))


def _flatten(part: dict[str, Any] | None) -> Sequence[dict[str, Any]]:
    if part is None:
        return []
    if part["type"] == "Sequence":
        inner = part.get("pretokenizers") or part.get("normalizers") or []
        return [leaf for item in inner for leaf in _flatten(item)]
    return [part]


def _overlap(one: str, other: str) -> bool:
    """Whether two tokens could lie across each other in some text."""
    if one in other or other in one:
        return True
    return any(
        a.endswith(b[:size])
        for a, b in ((one, other), (other, one))
        for size in range(1, min(len(a), len(b)))
    )
