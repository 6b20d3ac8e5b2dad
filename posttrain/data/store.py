"""Encoded examples on disk: flat arrays that are mapped, not read, so memory does not grow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data.encode import Example
from posttrain.data.records import Origin
from posttrain.files import load_json, load_jsonl, write_json, write_jsonl
from posttrain.layout import NO_PARENT, Segment, build_batch


@dataclass(frozen=True)
class ExampleStore:
    """Encoded examples of one split."""

    token_ids: np.ndarray[Any, Any]
    """[all tokens] int32."""
    weights: np.ndarray[Any, Any]
    """[all tokens] float32: loss weight of each token as a target."""
    offsets: np.ndarray[Any, Any]
    """[examples + 1] int64; example i is the slice offsets[i]:offsets[i + 1]."""
    places: np.ndarray[Any, Any]
    """[examples, 2] int64: index into ``files``, line."""
    files: tuple[str, ...]
    segment_offsets: np.ndarray[Any, Any] | None = None
    """[examples + 1] int64; the segments of example i, or None where each is one root."""
    segments: np.ndarray[Any, Any] | None = None
    """[segments, 2] int64: tokens, and the parent's number within the example or -1."""
    notes: tuple[dict[str, Any], ...] = ()
    """One per example, where the kind of data has any."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens per example, [examples]."""
        return np.diff(self.offsets)

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss, over all examples."""
        return int(np.count_nonzero(self.weights))

    def example(self, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return an example's token ids and loss weights, both [length]."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.token_ids[span], self.weights[span]

    def origin(self, index: int) -> Origin:
        """Return where an example was read."""
        file, line = self.places[index]
        return Origin(self.files[int(file)], int(line))

    def tree(self, index: int) -> list[Segment]:
        """Return an example as segments; parents are numbered from the example's first."""
        token_ids, weights = self.example(index)
        if self.segments is None or self.segment_offsets is None:
            return [Segment(token_ids, weights)]
        rows = self.segments[self.segment_offsets[index] : self.segment_offsets[index + 1]]
        ends = np.cumsum(rows[:, 0])
        return [
            Segment(token_ids[end - length : end], weights[end - length : end], int(parent))
            for end, (length, parent) in zip(ends, rows, strict=True)
        ]

    def batch(self, indices: Iterable[int]) -> dict[str, Any]:
        """Pack examples side by side; see ``layout.build_batch`` for the keys."""
        return build_batch([segment for tree in self.forest(indices) for segment in tree])

    def forest(self, indices: Iterable[int]) -> Iterator[list[Segment]]:
        """Yield examples as segments whose parents are numbered within the batch."""
        before = 0
        for index in indices:
            tree = self.tree(int(index))
            yield [
                s if s.parent == NO_PARENT else replace(s, parent=s.parent + before) for s in tree
            ]
            before += len(tree)


def save_store(folder: Path, examples: Sequence[Example]) -> None:
    """Write examples as a store."""
    folder.mkdir(parents=True)
    files = sorted({example.record.origin.file for example in examples})
    number = {file: i for i, file in enumerate(files)}
    lengths = [len(example.token_ids) for example in examples]
    none: list[Any] = [np.zeros(0)]
    arrays = {
        "token_ids": np.concatenate(none + [e.token_ids for e in examples]).astype(np.int32),
        "weights": np.concatenate(none + [e.weights for e in examples]).astype(np.float32),
        "offsets": np.cumsum([0, *lengths], dtype=np.int64),
        "places": np.array(
            [(number[e.record.origin.file], e.record.origin.line) for e in examples], dtype=np.int64
        ).reshape(-1, 2),
    }
    if any(example.lengths for example in examples):
        arrays["segment_offsets"] = np.cumsum([0, *(len(e.lengths) for e in examples)])
        arrays["segments"] = np.array(
            [row for e in examples for row in zip(e.lengths, e.parents, strict=True)],
            dtype=np.int64,
        )
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    write_json(folder / "files.json", files)
    if any(example.note is not None for example in examples):
        write_jsonl(folder / "notes.jsonl", (example.note or {} for example in examples))


def load_store(folder: Path) -> ExampleStore:
    """Map a store into memory."""
    names = ["token_ids", "weights", "offsets", "places"]
    if (folder / "segments.npy").is_file():
        names += ["segment_offsets", "segments"]
    arrays = {n: np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in names}
    notes = folder / "notes.jsonl"
    return ExampleStore(
        files=tuple(load_json(folder / "files.json")),
        notes=tuple(load_jsonl(notes)) if notes.is_file() else (),
        **arrays,
    )
