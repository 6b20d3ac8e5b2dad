"""Hide tokens of a packed batch that an encoder shall find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from posttrain.config.train import MaskConfig
from posttrain.data.word_starts import WordStarts

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Masking:
    """Which tokens are hidden, and how."""

    config: MaskConfig
    mask_id: int
    special_ids: Sequence[int]
    """Never hidden, and never put in the place of a token."""
    vocabulary: int
    """Tokens of the tokenizer."""
    words: WordStarts | None = None
    """Where words begin; None where single tokens are hidden."""

    @classmethod
    def build(cls, config: MaskConfig, tokenizer: Any) -> Masking:
        """Settle what a tokenizer's tokens are.

        Raises:
            ConfigError: Words are to be hidden, and the tokenizer does not tell where they begin.
        """
        words = None if config.units == "tokens" else WordStarts(tokenizer)
        special = sorted(set(tokenizer.all_special_ids))
        return cls(config, tokenizer.mask_token_id, special, len(tokenizer), words)


def mask_batch(packed: dict[str, Any], masking: Masking, seed: list[int]) -> dict[str, Any]:
    """Hide tokens behind the mask token, behind a random one, or not at all.

    Args:
        packed: Arrays of ``layout.build_batch``, all segments roots.
        masking: What is hidden.
        seed: The same seed hides the same tokens.

    Returns:
        The arrays with hidden tokens in ``input_ids``, scored at the places of these tokens with
        weight 1; at least one. Segments are marked as not causal.

    Source:
        Devlin et al. 2019, arXiv:1810.04805, section 3.1; for spans Joshi et al. 2020,
        arXiv:1907.10529, section 3.1.
    """
    random = np.random.default_rng(seed)
    ids = packed["input_ids"][0].copy()
    special = np.array(masking.special_ids)
    ordinary = ~np.isin(ids, special)
    if not ordinary.any():
        raise ValueError("a batch holds no token that could be hidden")
    table = packed["segments"]
    owners: Array = np.repeat(np.arange(len(table.lengths)), table.lengths)
    count = min(int(ordinary.sum()), max(1, round(masking.config.share * int(ordinary.sum()))))
    if masking.words is None:
        chosen = np.sort(random.choice(np.flatnonzero(ordinary), count, replace=False))
        dice = random.random(len(chosen))
    else:
        words = Words.find(ids, ordinary, owners, masking.words)
        chosen, spans = words.choose(count, masking.config, random)
        # A span is hidden, replaced or left as a whole; a word's tokens are each by themselves.
        alike = masking.config.units == "spans"
        dice = random.random(spans.max() + 1)[spans] if alike else random.random(len(chosen))
    targets = ids[chosen]
    replacements = random.choice(np.setdiff1d(np.arange(masking.vocabulary), special), len(chosen))
    hidden, replaced = masking.config.hidden, masking.config.random
    ids[chosen[dice < hidden]] = masking.mask_id
    other = (dice >= hidden) & (dice < hidden + replaced)
    ids[chosen[other]] = replacements[other]
    return {
        **packed,
        "input_ids": ids[None],
        "segments": replace(table, causal=False, plans={}),
        "score_positions": chosen,
        "score_targets": targets,
        "score_weights": np.ones(len(chosen), dtype=np.float32),
        "score_segments": owners[chosen],
    }


@dataclass(frozen=True)
class Words:
    """The words of a batch, in order; W of them."""

    firsts: Array
    """[W] place of each one's first token."""
    sizes: Array
    """[W] tokens of each."""
    follows: Array
    """[W] bool: whether it follows the one before it in the same text."""

    @classmethod
    def find(cls, ids: Array, ordinary: Array, owners: Array, words: WordStarts) -> Words:
        """Part the ordinary tokens of a batch into words.

        Args:
            ids: [T] token ids.
            ordinary: [T] bool: neither special nor marks.
            owners: [T] number of each token's segment.
            words: Where words begin.
        """
        places = np.flatnonzero(ordinary)
        apart = (np.diff(places) != 1) | (np.diff(owners[places]) != 0)
        stretches = np.split(places, np.flatnonzero(apart) + 1)
        starts = np.concatenate([words.find(ids[stretch]) for stretch in stretches])
        firsts = places[starts]
        sizes: Array = np.diff(np.append(np.flatnonzero(starts), len(places)))
        return cls(firsts, sizes, ~np.isin(firsts, [stretch[0] for stretch in stretches]))

    def choose(
        self, tokens: int, config: MaskConfig, random: np.random.Generator
    ) -> tuple[Array, Array]:
        """Choose whole words, or spans of whole words, at random.

        A word that would be too many is passed over, unless it is the first.

        Args:
            tokens: How many to choose in all, at most.
            config: Kind and length of the spans.
            random: Draws.

        Returns:
            Places of the tokens in order, and the number of the span that each belongs to.
        """
        number = len(self.firsts)
        lengths: Array = np.ones(number, dtype=np.int64)
        if config.units == "spans":
            lengths = random.choice(np.arange(1, config.span_words + 1), number, p=_chances(config))
        spans: Array = np.full(number, -1, dtype=np.int64)
        left, made = tokens, 0
        order = random.permutation(number).tolist()
        for anchor, length in zip(order, lengths.tolist(), strict=True):
            taken = 0
            for word in range(anchor, min(anchor + length, number)):
                beyond = word > anchor and not self.follows[word]
                too_many = self.sizes[word] > left and left < tokens
                if beyond or too_many or spans[word] >= 0:
                    break
                spans[word] = made
                left -= int(self.sizes[word])
                taken += 1
            made += taken > 0
            if left <= 0:
                break
        chosen = np.flatnonzero(spans >= 0)
        sizes = self.sizes[chosen]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.repeat(self.firsts[chosen], sizes) + within, np.repeat(spans[chosen], sizes)


def _chances(config: MaskConfig) -> Array:
    """Chance of each length of a span: geometric, cut off and made to add up to 1."""
    lengths = np.arange(config.span_words)
    chances = config.span_end * (1 - config.span_end) ** lengths
    return chances / chances.sum()
