"""Which split a row belongs to, decided by its content alone."""

from __future__ import annotations

import hashlib


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
    digest = hashlib.blake2b(f"{seed}\n{content}".encode("utf-8", "surrogatepass"), digest_size=8)
    place = int.from_bytes(digest.digest()) / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"
