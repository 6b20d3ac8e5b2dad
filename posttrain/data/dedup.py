"""Find rows that were there before: the same words, or nearly the same.

Workers reduce each row to a digest or a sketch; the parent finds repeats among these alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from posttrain.data.records import Chat, Content, Message, Text
from posttrain.data.words import CJK, hash_runs, hash_words

Array = np.ndarray[Any, Any]

# A space beside a sign of Chinese parts nothing that is not parted without it.
_IDLE_SPACE = re.compile(f" (?:(?=[{CJK}])|(?<=[{CJK}] ))")
# Longer rows are compared by their smallest hashes; the share's standard error is then 0.016.
_LARGEST_SKETCH = 1024
_MOST_MINIMA = 128
_RECALL = 0.99
# Standard error of the estimate is at most 0.045; what is three of it below is not looked at.
_MARGIN = 0.13
_SEED = 1
# Hashes for which minima are taken at a time: 4 MB, what a core keeps close.
_CHUNK_HASHES = 1 << 20


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


def exact_digest(content: Content) -> bytes:
    """Digest the words of a record, in their order; case and white space do not count.

    Returns:
        16 bytes, equal where the words are, on every machine.
    """
    words = " ".join(_fold(comparable_text(content)).split())
    if not words.isascii():
        words = _IDLE_SPACE.sub("", words)
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def near_sketch(content: Content) -> Array:
    """Reduce a record to the set of its word pairs (of Chinese and Japanese, pairs of characters).

    Returns:
        Hashes of the different pairs, ascending, uint32 [at least 1]: of a text of one word that
        word, of an empty one a sign of its own. Of more than 1,024 the smallest 1,024, which are a
        fair sample of them.
    """
    words, _ = hash_words(_fold(comparable_text(content)), "spaces")
    pairs = hash_runs(words, 2) if len(words) > 1 else hash_runs(words, 1)
    if not len(pairs):
        return np.zeros(1, np.uint32)
    hashes = np.sort((pairs >> np.uint64(32)).astype(np.uint32))
    different: Array = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=different[1:])
    return hashes[different][:_LARGEST_SKETCH]


def find_duplicates_exact(digests: Array) -> Array:
    """Find rows that repeat an earlier one word by word.

    Args:
        digests: Of every row, uint8 [n, 16].

    Returns:
        For each row the first equal one, or -1 where that is itself, int64 [n].
    """
    halves = np.ascontiguousarray(digests, np.uint8).view("<u8")
    # Stable: of equal rows the first comes first.
    order = np.lexsort((halves[:, 0], halves[:, 1]))
    halves = halves[order]
    begins: Array = np.append(True, (halves[1:] != halves[:-1]).any(axis=1))[: len(order)]
    first: Array = np.empty(len(order), np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    first[first == np.arange(len(first))] = -1
    return first


def find_duplicates_near(
    offsets: Array, sketches: Array, threshold: float, staying: Array | None = None
) -> Array:
    """Find rows that share most of their word pairs with an earlier one.

    The share is that of the common pairs among all of both. Candidates are found by MinHash, then
    their sketches are compared: nothing is merged by chance, and at the threshold about one pair
    in a hundred is overlooked. Rows are compared with those before them that stay.

    Args:
        offsets: Where each row's sketch begins, and the end of the last, int64 [n + 1].
        sketches: All rows' sketches, one behind the other, uint32; may be a memory map.
        threshold: Least share, in (0, 1].
        staying: Rows that stay whatever they repeat, and count as before all others, bool [n].

    Returns:
        For each row the first such row that stays, or -1 where it stays itself, int64 [n].

    Source:
        Leskovec et al., Mining of Massive Datasets, sections 3.3 and 3.4.
    """
    signatures, buckets = _sign(offsets, sketches, *_choose_bands(threshold))
    stays: Array = np.full(len(signatures), -1, np.int64)
    kept: dict[int, list[int]] = defaultdict(list)
    order = np.flatnonzero((buckets >= 0).any(axis=1))
    fixed = 0
    seen: set[bytes] = set()
    if staying is not None:
        order = order[np.argsort(~staying[order], kind="stable")]
        fixed = int(np.count_nonzero(staying[order]))
    for rank, row in enumerate(order.tolist()):
        own = sketches[offsets[row] : offsets[row + 1]]
        if rank < fixed:
            # What is like a staying row is like all that equal it: the first of them is enough.
            digest = hashlib.blake2b(own.tobytes(), digest_size=16).digest()
            if digest in seen:
                continue
            seen.add(digest)
        shared = [bucket for bucket in buckets[row].tolist() if bucket >= 0]
        found: set[int] = set().union(*(kept[bucket] for bucket in shared if rank >= fixed))
        candidates = order[sorted(found)]
        if len(candidates):
            alike = (signatures[candidates] == signatures[row]).mean(axis=1)
            candidates = candidates[alike >= threshold - _MARGIN]
        for candidate in candidates.tolist():
            other = sketches[offsets[candidate] : offsets[candidate + 1]]
            if _share(own, other) >= threshold:
                stays[row] = candidate
                break
        else:
            for bucket in shared:
                kept[bucket].append(rank)
    return stays


def find_duplicates(
    texts: Sequence[str], *, method: Literal["exact", "near"], threshold: float = 0.7
) -> dict[int, int]:
    """Find texts that repeat an earlier one.

    Args:
        texts: In the order in which the first of several is kept.
        method: ``exact``: see `find_duplicates_exact`; ``near``: see `find_duplicates_near`.
        threshold: Of ``near``, in (0, 1].

    Returns:
        Position of each repeated text -> position of the earlier text that stays.
    """
    rows = [Text(text) for text in texts]
    if method == "exact":
        digests = np.frombuffer(b"".join(map(exact_digest, rows)), np.uint8).reshape(-1, 16)
        stays = find_duplicates_exact(digests)
    else:
        sketches = [near_sketch(row) for row in rows]
        offsets = np.cumsum([0, *map(len, sketches)], dtype=np.int64)
        flat = np.concatenate([np.empty(0, np.uint32), *sketches])
        stays = find_duplicates_near(offsets, flat, threshold)
    return {row: int(stays[row]) for row in np.flatnonzero(stays >= 0).tolist()}


def _turn_text(turn: Message) -> str:
    calls = [call["function"] for call in turn.get("tool_calls") or ()]
    parts = [turn.get("reasoning_content"), turn.get("content")]
    if calls:
        parts.append(json.dumps(calls, ensure_ascii=False, sort_keys=True))
    return "\n".join(str(part) for part in parts if part)


def _fold(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def _choose_bands(threshold: float) -> tuple[int, int]:
    """Longest bands, and the fewest of them, that find a pair at the threshold as often as wanted.

    A pair of share s agrees in at least one of b bands of r minima with probability
    1 - (1 - s^r)^b.
    """
    for rows in range(16, 0, -1):
        for bands in range(1, _MOST_MINIMA // rows + 1):
            if 1 - (1 - threshold**rows) ** bands >= _RECALL:
                return rows, bands
    return 1, _MOST_MINIMA


def _sign(offsets: Array, sketches: Array, rows: int, bands: int) -> tuple[Array, Array]:
    """Take minima of every row.

    Returns:
        A byte of each minimum, by which candidates are sifted, [n, rows * bands]; and for each band
        the number of the row's bucket, different in all bands, -1 where no other row is in it,
        [n, bands].
    """
    count = len(offsets) - 1
    random = np.random.RandomState(_SEED)  # whose numbers are the same in every version of numpy
    factors = random.randint(0, 2**31, rows * bands, dtype=np.uint32) * 2 + 1
    signatures: Array = np.empty((count, rows * bands), np.uint8)
    keys: Array = np.empty((count, bands), np.uint32)
    start = 0
    while start < count:
        limit = int(offsets[start]) + _CHUNK_HASHES
        end = max(start + 1, int(np.searchsorted(offsets, limit, "right")) - 1)
        hashes = np.asarray(sketches[offsets[start] : offsets[end]])
        begins = offsets[start:end] - offsets[start]
        minima = np.stack([np.minimum.reduceat(hashes * factor, begins) for factor in factors])
        signatures[start:end] = (minima * np.uint32(0x9E3779B1) >> np.uint32(24)).T
        mixed: Array = np.zeros((bands, end - start), np.uint64)
        for minimum in minima.reshape(bands, rows, -1).transpose(1, 0, 2):
            mixed = (mixed ^ minimum) * np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
        keys[start:end] = mixed.T.astype(np.uint32)
        start = end
    return signatures, _number_buckets(keys)


def _number_buckets(keys: Array) -> Array:
    """Number the buckets that more than one row shares. The keys are overwritten."""
    numbers: Array = keys.view(np.int32)
    total = 0
    for band in range(keys.shape[1]):
        column = keys[:, band].copy()
        order = np.argsort(column, kind="stable")
        column = column[order]
        begins: Array = np.append(True, column[1:] != column[:-1])[: len(column)]
        bucket = np.cumsum(begins) - 1
        shared = np.bincount(bucket) > 1
        renumbered = np.where(shared, total + np.cumsum(shared) - 1, -1)
        numbers[order, band] = renumbered[bucket]
        total += int(shared.sum())
    return numbers


def _share(one: Array, other: Array) -> float:
    """Share of the common hashes among all of both, as far as both sketches reach."""
    full = [sketch[-1] for sketch in (one, other) if len(sketch) == _LARGEST_SKETCH]
    if full:
        one, other = (s[: np.searchsorted(s, min(full), "right")] for s in (one, other))
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)
