"""Which split a row belongs to, decided by its content alone.

Each row has a place between 0 and 1, which is a hash of its content and the seed. Without strata a
row's split depends on its place alone: [0, test) is test, what follows validation, the rest train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")
Array = np.ndarray[Any, Any]
_MASK = (1 << 64) - 1


def split_digest(text: str) -> bytes:
    """Digest of a row's canonical text, 16 bytes, on which its split depends."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def choose_split(content: str, *, validation: float, test: float, seed: int) -> str:
    """Assign a row to a split by a hash of its content.

    The same content always lands in the same split, so adding, removing or reordering rows moves
    no other row, and duplicates can never straddle two splits.

    Args:
        content: Canonical text of the row.
        validation: Share of rows for validation, 0 to 1.
        test: Share of rows for the test split, 0 to 1; validation + test < 1.
        seed: Another seed, another choice.

    Returns:
        ``train``, ``validation`` or ``test``.
    """
    digest = split_digest(content)
    low, high = (int.from_bytes(digest[at : at + 8], "little") for at in (0, 8))
    place = _place(low, high, seed)
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def assign_splits(
    digests: Array,
    *,
    validation: float,
    test: float,
    seed: int,
    groups: Sequence[str | bytes] | None = None,
    strata: Sequence[str] | None = None,
) -> Array:
    """Assign all rows to splits.

    Without groups and strata it is `choose_split`, row by row. Rows of a group are placed together,
    by the group's name.

    With strata, the rows of each are ranked by their places and cut at the wanted shares, so that
    every split of every stratum has the wanted number of rows to within one (with groups, and with
    rows of equal content: to within the larger of the two at its ends). Which way a fraction goes
    differs from stratum to stratum, so that many small strata add up to the wanted shares too. A
    group belongs to the stratum of most of its rows; of equally many, to the first by name. Adding
    k single rows to a stratum moves at most k of its others across each of its two cuts, and none
    of another stratum.

    Args:
        digests: `split_digest` of every row, uint8 [n, 16].
        validation: Share of rows for validation, 0 to 1.
        test: Share of rows for the test split, 0 to 1; validation + test < 1.
        seed: Another seed, another choice.
        groups: Name of every row's group, [n]; of a row that stands by itself the row's own digest.
        strata: Name of every row's stratum, [n].

    Returns:
        For each row a number in ``SPLITS``: 0 train, 1 validation, 2 test, int8 [n].
    """
    if groups is not None:
        names, group_of = _number_names(groups)
        group_digests = [g if isinstance(g, bytes) else split_digest(g) for g in names]
        digests = np.frombuffer(b"".join(group_digests), np.uint8).reshape(-1, 16)[group_of]
    halves = np.ascontiguousarray(digests).view("<u8").astype(np.uint64)
    places = _place(halves[:, 0], halves[:, 1], seed)
    if strata is None:
        return _cut(places, np.full(len(places), test), np.full(len(places), test + validation))
    # Rows of one group, or of equal content, have the same digest: a unit that stays together.
    keys = np.ascontiguousarray(digests).view("V16")[:, 0] if len(digests) else places
    _, first, unit_of = np.unique(keys, return_index=True, return_inverse=True)
    names, stratum_of_row = _number_names(strata)
    stratum_of = _settle_strata(unit_of, stratum_of_row)
    sizes = np.bincount(unit_of)
    order = np.lexsort((first, places[first], stratum_of))
    ordered_sizes, ordered_strata = sizes[order], stratum_of[order]
    totals = np.bincount(stratum_of, weights=sizes, minlength=len(names)).astype(np.int64)
    before = np.cumsum(totals) - totals
    # A unit lies where its middle does; of a single row that is half a row behind its rank.
    middles = np.cumsum(ordered_sizes) - ordered_sizes / 2 - before[ordered_strata]
    lifts = np.array([_lift(name, seed) for name in names])
    cuts = [np.floor(totals * share + lifts) for share in (test, test + validation)]
    unit_splits: Array = np.empty(len(first), np.int8)
    unit_splits[order] = _cut(middles, *(cut[ordered_strata] for cut in cuts))
    return unit_splits[unit_of]


def _cut(places: Array, test: Array, validation: Array) -> Array:
    chosen = np.where(places < test, 2, np.where(places < validation, 1, 0))
    return chosen.astype(np.int8)


def _place(low: Any, high: Any, seed: int) -> Any:
    """Mix a digest's halves with the seed, into [0, 1); for numbers, and for arrays of uint64."""
    mixed = _mix(low ^ _mix(high ^ _mix((seed + 1) & _MASK)))
    return (mixed >> 11) * 2.0**-53


def _mix(value: Any) -> Any:
    """Let every bit depend on every other. Source: Steele et al. 2014, SplitMix64's finalizer."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _number_names(names: Sequence[Any]) -> tuple[list[Any], Array]:
    """Return the different names in an order of their own, and each one's number among them."""
    different = sorted(set(names), key=lambda name: (isinstance(name, bytes), name))
    number_of = {name: number for number, name in enumerate(different)}
    return different, np.array([number_of[name] for name in names], np.int64)


def _settle_strata(unit_of: Array, strata: Array) -> Array:
    """Find the stratum of most of each unit's rows, the first of equally many."""
    count = int(strata.max(initial=0)) + 1
    pairs, rows = np.unique(unit_of * count + strata, return_counts=True)
    units, names = np.divmod(pairs, count)
    order = np.lexsort((names, -rows, units))
    begins: Array = np.append(True, units[order][1:] != units[order][:-1])[: len(order)]
    return names[order][begins]


def _lift(stratum: str, seed: int) -> float:
    """What is added before a stratum's cuts are rounded down, in [0, 1)."""
    low = int.from_bytes(split_digest(stratum)[:8], "little")
    # Steps of a thousandth keep clear of rounding errors: 0.7 of 10 rows are never 6.
    return int(_place(low, 0, seed) * 998 + 1) / 1000
