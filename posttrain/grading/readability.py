"""How hard an English text is to read, as a United States school grade."""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
# Badly copied texts lack the space after a full stop.
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)|(?<=[a-z])[.!?]+[\"”]?(?=[A-Z])|\n\s*\n")
_ABBREVIATION = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|e\.g|i\.e|U\.S)\.(?=\s)", re.IGNORECASE
)
# A final e is silent but after a consonant and l (ta-ble); -ed speaks after d and t only; -es is
# silent but after s, x, z, ch, sh and soft c and g.
_SILENT = re.compile(r"(?:(?<![aeiouyl])e|(?<=[aeiouy]l)e|(?<![dtaeiouy])ed|(?<![sxzcgh])es)$")


def split_words(text: str) -> list[str]:
    """Words made of Latin letters, in order."""
    return _WORD.findall(text)


def count_sentences(text: str) -> int:
    """Sentences: ends of sentences and empty lines part them; at least 1."""
    plain = _ABBREVIATION.sub("", text)
    return max(1, sum(1 for part in _SENTENCE_END.split(plain) if _WORD.search(part)))


def count_syllables(word: str) -> int:
    """Syllables by a rule of thumb: groups of vowels, silent endings left out; at least 1."""
    groups = re.findall(r"[aeiouy]+", _SILENT.sub("", word.lower()))
    return max(1, len(groups))


def estimate_grade(text: str) -> float:
    """Flesch-Kincaid grade level of an English text.

    An estimate: the formula knows sentence and word lengths only, and scatters by some grades on
    texts of fewer than a hundred words.

    Args:
        text: With at least one word.

    Returns:
        School grade; 0 is kindergarten, and it may be negative.

    Raises:
        ValueError: The text has no word.

    Source:
        Kincaid, Fishburne, Rogers and Chissom 1975, Naval Technical Training Command, Research
        Branch Report 8-75.
    """
    words = split_words(text)
    if not words:
        raise ValueError("a text without words has no reading level")
    syllables = sum(count_syllables(word) for word in words)
    return 0.39 * len(words) / count_sentences(text) + 11.8 * syllables / len(words) - 15.59
