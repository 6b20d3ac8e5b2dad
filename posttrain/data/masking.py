"""Hide tokens of a packed batch that an encoder shall find."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_HIDDEN, _REPLACED = 0.8, 0.1


@dataclass(frozen=True)
class Masking:
    """Which tokens are hidden, and how."""

    share: float
    """Of the tokens of a batch, those to be found."""
    mask_id: int
    special_ids: Collection[int]
    """Never hidden, and never put in the place of a token."""
    vocabulary: int
    """Tokens of the tokenizer."""


def mask_batch(packed: dict[str, Any], masking: Masking, seed: list[int]) -> dict[str, Any]:
    """Hide tokens: 80 % behind the mask token, 10 % behind a random one, 10 % as they are.

    Args:
        packed: Arrays of ``layout.build_batch``, all segments roots.
        masking: What is hidden.
        seed: The same seed hides the same tokens.

    Returns:
        The arrays with hidden tokens in ``input_ids``, scored at the places of these tokens with
        weight 1; at least one. Segments are marked as not causal.

    Source:
        Devlin et al. 2019, arXiv:1810.04805, section 3.1.
    """
    random = np.random.default_rng(seed)
    ids = packed["input_ids"][0].copy()
    special = np.array(sorted(masking.special_ids))
    ordinary = np.flatnonzero(~np.isin(ids, special))
    if not len(ordinary):
        raise ValueError("a batch holds no token that could be hidden")
    count = min(len(ordinary), max(1, round(masking.share * len(ordinary))))
    chosen = np.sort(random.choice(ordinary, count, replace=False))
    targets = ids[chosen]
    dice = random.random(count)
    words = np.setdiff1d(np.arange(masking.vocabulary), special)
    replacements = random.choice(words, count)
    ids[chosen[dice < _HIDDEN]] = masking.mask_id
    other = (dice >= _HIDDEN) & (dice < _HIDDEN + _REPLACED)
    ids[chosen[other]] = replacements[other]
    table = packed["segments"]
    owners: np.ndarray[Any, Any] = np.repeat(np.arange(len(table.lengths)), table.lengths)
    return {
        **packed,
        "input_ids": ids[None],
        "segments": replace(table, causal=False, plans={}),
        "score_positions": chosen,
        "score_targets": targets,
        "score_weights": np.ones(count, dtype=np.float32),
        "score_segments": owners[chosen],
    }
