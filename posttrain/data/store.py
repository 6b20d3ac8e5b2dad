"""Encoded examples on disk: flat arrays that are mapped, not read, so memory does not grow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data.encode import Example
from posttrain.data.records import Origin
from posttrain.files import load_json, write_json
from posttrain.layout import Segment, build_batch


@dataclass(frozen=True)
class ExampleStore:
    """Encoded examples of one split."""

    token_ids: np.ndarray[Any, Any]
    """[all tokens] int32."""
    trained: np.ndarray[Any, Any]
    """[all tokens] bool."""
    offsets: np.ndarray[Any, Any]
    """[examples + 1] int64; example i is the slice offsets[i]:offsets[i + 1]."""
    places: np.ndarray[Any, Any]
    """[examples, 2] int64: index into ``files``, line."""
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens per example, [examples]."""
        return np.diff(self.offsets)

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss, over all examples."""
        return int(np.count_nonzero(self.trained))

    def example(self, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return an example's token ids and trained mask, both [length]."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.token_ids[span], self.trained[span]

    def origin(self, index: int) -> Origin:
        """Return where an example was read."""
        file, line = self.places[index]
        return Origin(self.files[int(file)], int(line))

    def batch(self, indices: Iterable[int]) -> dict[str, Any]:
        """Pack examples as root segments; see ``layout.build_batch`` for the keys."""
        return build_batch([Segment(*self.example(int(index))) for index in indices])


def save_store(folder: Path, examples: Sequence[Example]) -> None:
    """Write examples as a store."""
    folder.mkdir(parents=True)
    files = sorted({example.record.origin.file for example in examples})
    number = {file: i for i, file in enumerate(files)}
    lengths = [len(example.token_ids) for example in examples]
    none: list[Any] = [np.zeros(0)]
    arrays = {
        "token_ids": np.concatenate(none + [e.token_ids for e in examples]).astype(np.int32),
        "trained": np.concatenate(none + [e.trained for e in examples]).astype(bool),
        "offsets": np.cumsum([0, *lengths], dtype=np.int64),
        "places": np.array(
            [(number[e.record.origin.file], e.record.origin.line) for e in examples], dtype=np.int64
        ).reshape(-1, 2),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    write_json(folder / "files.json", files)


def load_store(folder: Path) -> ExampleStore:
    """Map a store into memory."""
    names = ("token_ids", "trained", "offsets", "places")
    arrays = {n: np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in names}
    return ExampleStore(files=tuple(load_json(folder / "files.json")), **arrays)
