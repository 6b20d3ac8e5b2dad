"""The packed batch: one layout for every training and scoring method.

A batch is a flat run of T tokens made of segments, nothing padded. A segment has at most one
parent; its tokens attend causally within it and fully to its ancestors, and its positions go on
from the parent's end. SFT makes every example a root; a preference pair is a prompt with two
children, computed once.

What the model is scored on is a list of N (position, target, weight) triples: the hidden state at
``score_positions[i]`` predicts ``score_targets[i]``. A prompt's last position may predict the
first token of several children, which a shifted label row could not say.

Letters: T tokens of the batch, S segments, N scored tokens, P trees (roots with all that goes on
from them), R answers (segments with a parent).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

NO_PARENT = -1
Plan = TypeVar("Plan")


@dataclass(frozen=True)
class Segment:
    """A run of tokens to be packed."""

    token_ids: np.ndarray[Any, Any]
    """[length], integers."""
    weights: np.ndarray[Any, Any]
    """[length], loss weight of each token as a target; 0 is no loss."""
    parent: int = NO_PARENT
    """Position in the batch of the segment that this one continues."""


@dataclass(frozen=True)
class SegmentTable:
    """Where the segments of a batch lie; stays on the CPU and steers attention."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    parents: tuple[int, ...]
    causal: bool = True
    """Whether a token sees only what comes before it; else its whole segment, which is a root."""
    plans: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What ``plan`` has settled."""

    def plan(self, name: Any, build: Callable[[], Plan]) -> Plan:
        """Take what a back end has settled for this batch, or settle it: once for all layers.

        Args:
            name: Of the back end and what its plan depends on.
            build: Makes the plan.
        """
        if name not in self.plans:
            self.plans[name] = build()
        plan: Plan = self.plans[name]
        return plan

    def ancestors(self, segment: int) -> list[int]:
        """Return the segment's ancestors, the root first."""
        chain: list[int] = []
        while (segment := self.parents[segment]) != NO_PARENT:
            chain.insert(0, segment)
        return chain

    def trees(self) -> list[int]:
        """Return the number of each segment's tree; trees count as their roots do."""
        found: list[int] = []
        roots = 0
        for parent in self.parents:
            found.append(roots if parent == NO_PARENT else found[parent])
            roots += parent == NO_PARENT
        return found

    def tree_tokens(self) -> list[int]:
        """Return the tokens of each tree, [P]."""
        counts = np.bincount(self.trees(), weights=self.lengths)
        return [int(count) for count in counts]

    @property
    def total_tokens(self) -> int:
        """T."""
        return sum(self.lengths)


def build_batch(segments: Sequence[Segment]) -> dict[str, Any]:
    """Lay segments end to end.

    Args:
        segments: Parents before their children; at least one; none empty.

    Returns:
        ``input_ids`` and ``position_ids`` [1, T] int64, ``segments`` (a SegmentTable),
        ``score_positions`` and ``score_targets`` [N] int64, ``score_weights`` [N] float32, and
        ``score_segments`` [N] int64, the segment of each target.

    Raises:
        ValueError: A segment is empty, has not one weight per token, names a parent that does not
            come before it, or puts loss on the first token of a root, which nothing predicts.
    """
    lengths = tuple(len(s.token_ids) for s in segments)
    starts = tuple(int(x) for x in np.cumsum((0, *lengths[:-1])))
    ends: list[int] = []
    positions, sources = [], []
    for i, segment in enumerate(segments):
        if not lengths[i] or not NO_PARENT <= segment.parent < i:
            raise ValueError(f"segment {i} is empty or its parent does not come before it")
        if len(segment.weights) != lengths[i]:
            raise ValueError(f"segment {i} has not one weight per token")
        is_root = segment.parent == NO_PARENT
        if is_root and segment.weights[0] != 0:
            raise ValueError(f"segment {i} has loss on its first token, which nothing predicts")
        offset = 0 if is_root else ends[segment.parent]
        ends.append(offset + lengths[i])
        positions.append(np.arange(offset, offset + lengths[i]))
        source = np.arange(starts[i] - 1, starts[i] + lengths[i] - 1)
        if not is_root:
            source[0] = starts[segment.parent] + lengths[segment.parent] - 1
        sources.append(source)
    token_ids = np.concatenate([s.token_ids for s in segments]).astype(np.int64)
    weights = np.concatenate([s.weights for s in segments]).astype(np.float32)
    scored = np.flatnonzero(weights)
    return {
        "input_ids": token_ids[None],
        "position_ids": np.concatenate(positions).astype(np.int64)[None],
        "segments": SegmentTable(starts, lengths, tuple(s.parent for s in segments)),
        "score_positions": np.concatenate(sources).astype(np.int64)[scored],
        "score_targets": token_ids[scored],
        "score_weights": weights[scored],
        "score_segments": np.repeat(np.arange(len(segments)), lengths)[scored],
    }


AXES = {
    "input_ids": "T",
    "position_ids": "T",
    "score_positions": "N",
    "score_targets": "N",
    "score_weights": "N",
    "score_segments": "N",
    "end_positions": "R",
    "order": "R",
    "reference_logprobs": "P",
}
"""What a field of a batch has one entry for; names that end in ``_N`` are of scored tokens."""
# Fields that say where another thing lies, which moves when a batch is cut.
_TOKEN_PLACES, _SEGMENT_NUMBERS = ("score_positions", "end_positions"), ("score_segments",)


def take_trees(batch: dict[str, Any], trees: Sequence[int]) -> dict[str, Any]:
    """Lay out some trees of a batch as a batch of their own, with all that belongs to them.

    Args:
        batch: Arrays or tensors on the CPU; see ``AXES``. What has no length stays as it is.
        trees: Numbers of the trees to take, ascending.

    Returns:
        The batch, and in ``trees`` the numbers that its trees have in the whole one.

    Raises:
        ValueError: A field has a length and no known axis.
    """
    table: SegmentTable = batch["segments"]
    kept_S = np.isin(table.trees(), trees)
    segments = np.flatnonzero(kept_S)
    lengths = tuple(table.lengths[i] for i in segments)
    new_S = np.cumsum(kept_S) - 1
    parents = tuple(int(new_S[p]) if (p := table.parents[i]) >= 0 else p for i in segments)
    tokens = np.concatenate(
        [np.arange(table.starts[i], table.starts[i] + table.lengths[i]) for i in segments]
    )
    new_T: np.ndarray[Any, Any] = np.zeros(table.total_tokens, dtype=np.int64)
    new_T[tokens] = np.arange(len(tokens))
    answers = [i for i, parent in enumerate(table.parents) if parent != NO_PARENT]
    scored = np.flatnonzero(kept_S[np.asarray(batch["score_segments"])])
    taken = {"T": tokens, "N": scored, "R": np.flatnonzero(kept_S[answers]), "P": np.array(trees)}
    part: dict[str, Any] = {}
    for name, value in batch.items():
        axis = "N" if name.endswith("_N") else AXES.get(name)
        if axis == "T":
            part[name] = value[:, taken["T"]]
        elif isinstance(value, list) and axis:
            part[name] = [value[i] for i in taken[axis]]
        elif axis:
            part[name] = value[taken[axis]]
        elif hasattr(value, "shape"):
            raise ValueError(f"along which axis is `{name}` of a batch to be cut?")
        else:
            part[name] = value
    for name in _TOKEN_PLACES:
        if name in part:
            part[name] = _renumber(new_T, part[name])
    for name in _SEGMENT_NUMBERS:
        part[name] = _renumber(new_S, part[name])
    starts = tuple(int(x) for x in np.cumsum((0, *lengths[:-1])))
    part["segments"] = SegmentTable(starts, lengths, parents, table.causal)
    before = batch.get("trees", range(len(table.tree_tokens())))
    return {**part, "trees": tuple(before[i] for i in trees)}


def _renumber(new: np.ndarray[Any, Any], places: Any) -> Any:
    """Look up the new numbers, in whatever kind of array the old ones are."""
    found = new[np.asarray(places)].astype(np.int64)
    return found if isinstance(places, np.ndarray) else places.new_tensor(found)
