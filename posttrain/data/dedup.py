"""Find rows that were there before: the same words, or nearly the same."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from posttrain.data.records import Chat, Content, Message, Text
from posttrain.extras import require_extra

# One sign of Chinese or Japanese is about a word; other scripts have spaces.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_PERMUTATIONS = 128
_RECALL = 0.99
# Standard error of the estimate is at most 0.044; what is three of it below is not looked at.
_MARGIN = 0.13
_SEED = 1


def find_duplicates(
    texts: Sequence[str], *, method: Literal["exact", "near"], threshold: float = 0.7
) -> dict[int, int]:
    """Find texts that repeat an earlier one.

    Args:
        texts: In the order in which the first of several is kept.
        method: ``exact``: equal but for case and white space. ``near``: the share of common word
            pairs (for Chinese, pairs of characters) among all of both is at least ``threshold``.
            Candidates are found by MinHash, then compared in full: nothing is merged by chance,
            and at the threshold about one pair in a hundred is overlooked.
        threshold: Of ``near``, in (0, 1].

    Returns:
        Position of each repeated text -> position of the earlier text that stays.

    Raises:
        MissingExtraError: ``near`` without the extra ``dedup``.
    """
    words = [_split_words(text) for text in texts]
    return _find_equal(words) if method == "exact" else _find_near(words, threshold)


def comparable_text(content: Content) -> str:
    """All that tells a record from another, without the format around it.

    Of tools only the names: their descriptions would make all rows of a data set alike.
    """
    if isinstance(content, Text):
        return content.text
    turns: list[Message] = (
        list(content.messages)
        if isinstance(content, Chat)
        else [*content.prompt, content.chosen, content.rejected]
    )
    names = [str((tool.get("function") or tool).get("name", "")) for tool in content.tools]
    return "\n".join([*names, *map(_turn_text, turns)])


def _turn_text(turn: Message) -> str:
    calls = [call["function"] for call in turn.get("tool_calls") or ()]
    parts = [turn.get("reasoning_content"), turn.get("content")]
    if calls:
        parts.append(json.dumps(calls, ensure_ascii=False, sort_keys=True))
    return "\n".join(str(part) for part in parts if part)


def _split_words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())


def _find_equal(words: Sequence[list[str]]) -> dict[int, int]:
    first: dict[tuple[str, ...], int] = {}
    found: dict[int, int] = {}
    for index, row in enumerate(words):
        earlier = first.setdefault(tuple(row), index)
        if earlier != index:
            found[index] = earlier
    return found


def _find_near(words: Sequence[list[str]], threshold: float) -> dict[int, int]:
    """Look each row up among the kept ones; only kept rows are entered."""
    rensa = require_extra("rensa", "dedup")
    index = rensa.RMinHashLSH(
        threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_choose_bands(threshold)
    )
    signatures: dict[int, Any] = {}
    found: dict[int, int] = {}
    for number, row in enumerate(words):
        pairs = _pairs(row)
        signature = rensa.RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
        signature.update(sorted(pairs))
        for candidate in sorted(set(index.query(signature))):
            if signatures[candidate].jaccard(signature) < threshold - _MARGIN:
                continue
            others = _pairs(words[candidate])
            if len(pairs & others) >= threshold * len(pairs | others):
                found[number] = candidate
                break
        else:
            signatures[number] = signature
            index.insert(number, signature)
    return found


def _pairs(words: list[str]) -> set[str]:
    """Neighbouring words; a text of one word is itself, an empty one a sign of its own."""
    return {f"{a} {b}" for a, b in pairwise(words)} or {" ".join(words)}


def _choose_bands(threshold: float) -> int:
    """Fewest bands that find a pair at the threshold with the wanted probability.

    Source: Leskovec et al., Mining of Massive Datasets, section 3.4: 1 - (1 - t^r)^b.
    """
    for rows in (16, 8, 4, 2):
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= _RECALL:
            return bands
    return _PERMUTATIONS
