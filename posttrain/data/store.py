"""Encoded examples on disk: flat arrays that are mapped, not read, so memory does not grow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from posttrain.data.encode import Example
from posttrain.data.records import Origin
from posttrain.files import load_json, load_jsonl, write_json
from posttrain.layout import NO_PARENT, Segment, build_batch

Array = np.ndarray[Any, Any]
_HEADER_BYTES = 128
_GATHERED = 256
_COUNTED = 65_536
_COLUMNS: dict[str, tuple[str, int]] = {
    "token_ids": ("<i4", 0),
    "weights": ("<f4", 0),
    "lengths": ("<i4", 0),
    "places": ("<i8", 2),
    "segment_counts": ("<i4", 0),
    "segments": ("<i8", 2),
}
"""Column -> its type, and the numbers of an entry where there are several."""


@dataclass(frozen=True)
class ExampleBlock:
    """Some examples laid out as columns, cheap to hand from process to process."""

    token_ids: Array
    """[tokens] int32."""
    weights: Array
    """[tokens] float32."""
    lengths: Array
    """[examples] int32."""
    places: Array
    """[examples, 2] int64: number of the file, line."""
    segment_counts: Array
    """[examples] int32: segments of each; 0 where it is one root."""
    segments: Array
    """[segments, 2] int64: tokens, and the parent's number within the example or -1."""
    notes: tuple[str, ...] = ()
    """One line of JSON per example, or none at all."""

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def gather(cls, examples: Sequence[Example], places: Sequence[tuple[int, int]]) -> ExampleBlock:
        """Lay out examples that were read at ``places``."""
        none = [np.zeros(0)]
        segments = [row for e in examples for row in zip(e.lengths, e.parents, strict=True)]
        noted = any(example.note is not None for example in examples)
        return cls(
            np.concatenate(none + [e.token_ids for e in examples]).astype(np.int32),
            np.concatenate(none + [e.weights for e in examples]).astype(np.float32),
            np.array([len(e.token_ids) for e in examples], dtype=np.int32),
            np.array(places, dtype=np.int64).reshape(-1, 2),
            np.array([len(e.lengths) for e in examples], dtype=np.int32),
            np.array(segments, dtype=np.int64).reshape(-1, 2),
            tuple(json.dumps(e.note or {}) for e in examples) if noted else (),
        )

    def select(self, wanted: Array) -> ExampleBlock:
        """Keep the examples for which ``wanted`` [examples] is true."""
        if wanted.all():
            return self
        tokens: Array = np.repeat(wanted, self.lengths)
        return ExampleBlock(
            self.token_ids[tokens],
            self.weights[tokens],
            self.lengths[wanted],
            self.places[wanted],
            self.segment_counts[wanted],
            self.segments[np.repeat(wanted, self.segment_counts)],
            tuple(n for n, w in zip(self.notes, wanted, strict=True) if w) if self.notes else (),
        )


class BlockWriter:
    """Appends blocks to a folder of columns; memory does not grow with them.

    Args:
        folder: To be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._sizes = dict.fromkeys(_COLUMNS, 0)
        self._open = ExitStack()
        self._columns: dict[str, BinaryIO] = {}
        for name in _COLUMNS:
            file = self._open.enter_context((folder / f"{name}.npy").open("wb"))
            file.write(bytes(_HEADER_BYTES))
            self._columns[name] = file
        self._notes: Any = None
        self._examples = 0

    def __enter__(self) -> BlockWriter:
        return self

    def add(self, block: ExampleBlock) -> None:
        """Append a block."""
        for name, file in self._columns.items():
            column = np.ascontiguousarray(getattr(block, name), dtype=_COLUMNS[name][0])
            file.write(memoryview(column).cast("B") if column.size else b"")
            self._sizes[name] += len(column)
        if block.notes:
            if self._notes is None:
                notes = (self._folder / "notes.jsonl").open("w", encoding="utf-8")
                self._notes = self._open.enter_context(notes)
            self._notes.writelines(f"{note}\n" for note in block.notes)
        self._examples += len(block)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the headers, which say how much there is."""
        if error is None:
            for name, file in self._columns.items():
                file.seek(0)
                file.write(_npy_header(name, self._sizes[name]))
        self._open.close()


def _npy_header(name: str, size: int) -> bytes:
    """Header of a .npy file, version 1.0, of ``_HEADER_BYTES``."""
    kind, width = _COLUMNS[name]
    shape = (size, width) if width else (size,)
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    room = _HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"


def read_blocks(folder: Path, block_examples: int = 4096) -> Iterator[ExampleBlock]:
    """Read back what a BlockWriter wrote, block by block; the notes come with the blocks."""
    notes = folder / "notes.jsonl"
    with ExitStack() as stack:
        columns = {
            name: stack.enter_context((folder / f"{name}.npy").open("rb")) for name in _COLUMNS
        }
        shapes = {}
        for name, file in columns.items():
            np.lib.format.read_magic(file)
            shapes[name] = np.lib.format.read_array_header_1_0(file)[0]
        lines = stack.enter_context(notes.open(encoding="utf-8")) if notes.is_file() else None

        def take(name: str, count: int) -> Array:
            kind, width = _COLUMNS[name]
            read = np.fromfile(columns[name], kind, count * (width or 1))
            return read.reshape(-1, width) if width else read

        left = shapes["lengths"][0]
        while left:
            count = min(left, block_examples)
            left -= count
            lengths, counts = take("lengths", count), take("segment_counts", count)
            tokens = int(lengths.sum())
            yield ExampleBlock(
                take("token_ids", tokens),
                take("weights", tokens),
                lengths,
                take("places", count),
                counts,
                take("segments", int(counts.sum())),
                tuple(next(lines).rstrip("\n") for _ in range(count)) if lines else (),
            )


@dataclass(frozen=True)
class Mixture:
    """How often each source's examples are seen in an epoch; a source's stand together."""

    sizes: list[int]
    """Examples of each source, in the order of the store."""
    draws: list[int]
    """Of each source, how many are seen in an epoch."""
    seed: int

    def draw(self, number: int) -> Array:
        """Examples of epoch ``number``, the sources evenly among each other."""
        from posttrain.data.mixture import interleave

        return interleave(self.sizes, self.draws, seed=self.seed, epoch=number)


@dataclass(frozen=True)
class ExampleStore:
    """Encoded examples of one split."""

    token_ids: Array
    """[all tokens] int32."""
    weights: Array
    """[all tokens] float32: loss weight of each token as a target."""
    offsets: Array
    """[examples + 1] int64; example i is the slice offsets[i]:offsets[i + 1]."""
    places: Array
    """[examples, 2] int64: index into ``files``, line."""
    files: tuple[str, ...]
    segment_offsets: Array | None = None
    """[examples + 1] int64; the segments of example i, or None where each is one root."""
    segments: Array | None = None
    """[segments, 2] int64: tokens, and the parent's number within the example or -1."""
    notes: tuple[dict[str, Any], ...] = ()
    """One per example, where the kind of data has any."""
    mixture: Mixture | None = field(default=None)
    """How often each source's examples are seen in an epoch; None where each is seen once."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """Tokens per example, [examples]."""
        return np.diff(self.offsets)

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss, over all examples."""
        return int(self.count_trained().sum())

    def count_trained(self) -> Array:
        """Tokens that carry loss per example, [examples]; a part at a time, for memory."""
        counts: Array = np.zeros(len(self), dtype=np.int64)
        for first in range(0, len(self), _COUNTED):
            offsets = self.offsets[first : first + _COUNTED + 1]
            trained = self.weights[offsets[0] : offsets[-1]] != 0
            ends: Array = np.concatenate([[0], np.cumsum(trained)])[offsets - offsets[0]]
            counts[first : first + _COUNTED] = np.diff(ends)
        return counts

    def epoch(self, number: int) -> Array:
        """Examples of one pass over the data, as numbers; the same one may come twice."""
        return np.arange(len(self)) if self.mixture is None else self.mixture.draw(number)

    def example(self, index: int) -> tuple[Array, Array]:
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
        if not len(rows):
            return [Segment(token_ids, weights)]
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


def save_store(folder: Path, blocks: Iterable[ExampleBlock], files: Sequence[str]) -> None:
    """Write blocks of examples as a store.

    Args:
        folder: To be made.
        blocks: The examples.
        files: What the file numbers in their places mean.
    """
    with BlockWriter(folder) as writer:
        for block in blocks:
            writer.add(block)
    write_json(folder / "files.json", list(files))


def gather_blocks(examples: Iterable[Example], files: dict[str, int]) -> Iterator[ExampleBlock]:
    """Lay out a stream of examples block by block; ``files`` numbers the files of their origins."""
    held: list[Example] = []
    for example in examples:
        held.append(example)
        if len(held) == _GATHERED:
            yield _gather(held, files)
            held = []
    if held:
        yield _gather(held, files)


def _gather(held: Sequence[Example], files: dict[str, int]) -> ExampleBlock:
    origins = [example.record.origin for example in held]
    return ExampleBlock.gather(held, [(files[o.file], o.line) for o in origins])


def load_store(folder: Path) -> ExampleStore:
    """Map a store into memory."""
    arrays = {
        n: np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False)
        for n in _COLUMNS
        if (folder / f"{n}.npy").stat().st_size > _HEADER_BYTES
    }
    empty: dict[str, Array] = {
        n: np.zeros((0, w) if w else 0, kind) for n, (kind, w) in _COLUMNS.items()
    }
    columns = empty | arrays
    trees = len(columns["segments"]) > 0
    notes = folder / "notes.jsonl"
    mixture = folder / "mixture.json"
    return ExampleStore(
        token_ids=columns["token_ids"],
        weights=columns["weights"],
        offsets=_offsets(columns["lengths"]),
        places=columns["places"],
        files=tuple(load_json(folder / "files.json")),
        segment_offsets=_offsets(columns["segment_counts"]) if trees else None,
        segments=columns["segments"] if trees else None,
        notes=tuple(load_jsonl(notes)) if notes.is_file() else (),
        mixture=Mixture(**load_json(mixture)) if mixture.is_file() else None,
    )


def _offsets(lengths: Array) -> Array:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
