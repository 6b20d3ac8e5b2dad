"""Read, convert and check rows without a tokenizer or a model: findings, never a crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from posttrain.config.data import (
    ContaminationConfig,
    DedupConfig,
    SourceConfig,
    TextDataConfig,
)
from posttrain.data.dedup import (
    exact_digest,
    find_duplicates_exact,
    find_duplicates_near,
    near_sketch,
)
from posttrain.data.evaluations import build_index
from posttrain.data.readers import RowBatch, pick_rows
from posttrain.data.records import (
    CONTAMINATED,
    NOT_FAULTS,
    REPEATED,
    USABLE,
    Chat,
    Content,
    Origin,
    Preference,
    Reject,
    RowError,
    check_chat,
)
from posttrain.data.sources import (
    build_converter,
    choose_source_format,
    choose_text_format,
    expand_source,
    find_text_fields,
    is_text_file,
    scan_source,
)
from posttrain.errors import DataError
from posttrain.logs import Progress

_SHOWN = 3


@dataclass(frozen=True)
class DataSet:
    """What is looked at together: some sources, and what is asked of their rows."""

    name: str
    sources: tuple[SourceConfig, ...]
    watched: tuple[SourceConfig, ...] = ()
    """Sources for validation during training: only their rows are checked."""
    kind: str = "auto"
    dedup: DedupConfig | None = None
    contamination: ContaminationConfig | None = None
    max_reject_fraction: float = 0.1
    text: TextDataConfig | None = None
    """How plain text is read."""


@dataclass
class FileFindings:
    """What was found in one file."""

    path: str
    format: str = ""
    evidence: str = ""
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the first rows."""
    problem: DataError | None = None
    """Why the file cannot be read at all."""
    scan: Callable[[], Iterator[RowBatch]] = lambda: iter(())
    """Reads it."""

    def add(self, reject: Reject) -> None:
        """Count a finding."""
        self.reasons[reject.reason] += 1
        places = self.places.setdefault(reject.reason, [])
        if len(places) < _SHOWN:
            detail = f" ({reject.detail[:200]})" if reject.detail else ""
            places.append(f"{reject.origin}{detail}")

    def count_without(self, reasons: Sequence[str]) -> int:
        """Count the findings for other reasons than some."""
        return self.reasons.total() - sum(self.reasons[reason] for reason in reasons)

    def lines(self) -> Iterator[str]:
        """Yield what to tell of the file."""
        if self.problem:
            yield str(self.problem)
            return
        yield f"{self.path}: {self.rows:,} rows, {self.format} ({self.evidence})"
        left_out = self.count_without(USABLE)
        yield f"  {self.rows - left_out:,} records"
        for reason, count in self.reasons.most_common():
            yield f"  {count:,} × {reason}"
            yield from (f"      {place}" for place in self.places[reason])


class Validation:
    """One data set being looked at.

    Args:
        data: What to read, and what to ask.
    """

    def __init__(self, data: DataSet) -> None:
        self.data = data
        self.files: list[FileFindings] = []
        self._first: Reject | None = None
        self._told = Progress("validating", 0, "rows")

    def run(self) -> Iterator[Reject]:
        """Read everything once; yield each finding."""
        index = self._build_index()
        duplicates = _Duplicates(self.data.dedup)
        for source in self.data.sources:
            for content, row, origin, item in self._read(source):
                if isinstance(item, Reject):
                    yield item
                    continue
                place = _Place(len(self.files) - 1, origin.line, self.files[-1].rows - 1)
                duplicates.add(content, place)
                if index and (match := index.find(content)):
                    detail = f"{match.what}, {match.origin}"
                    yield self._note(Reject(origin, CONTAMINATED, detail, row))
        yield from self._tell_repeated(duplicates)
        for source in self.data.watched:
            for _, _, _, item in self._read(source):
                if isinstance(item, Reject):
                    yield item

    def _tell_repeated(self, duplicates: _Duplicates) -> Iterator[Reject]:
        """Yield the repeated rows, which are read once more."""
        for number, found in groupby(duplicates.find(), key=lambda place: place[0].file):
            file, places = self.files[number], list(found)
            rows = pick_rows(file.scan(), [place.number for place, _ in places])
            for row, (place, earlier) in zip(rows, places, strict=True):
                before = Origin(self.files[earlier.file].path, earlier.line)
                origin = Origin(file.path, place.line)
                yield self._note(Reject(origin, REPEATED, f"as {before}", row), file)

    def _build_index(self) -> Any:
        settings = self.data.contamination
        if settings is None or not settings.against:
            return None
        return build_index(settings).index

    def _read(self, source: SourceConfig) -> Iterator[tuple[Any, Any, Origin, Reject | None]]:
        """Yield each row of a source: content, row and place, and what is wrong with it."""
        try:
            files = expand_source(source)
        except DataError as error:
            self.files.append(FileFindings(str(source.path), problem=error))
            return
        for file in files:
            found = FileFindings(str(file.path))
            self.files.append(found)
            try:
                kind = self._settle_format(file, found)
                convert = build_converter(file, found.format, *self._text_fields(file))
                documents = self.data.text.documents if self.data.text else "paragraph"
                found.scan = partial(scan_source, file, documents=documents)
                for batch in found.scan():
                    for origin, row in batch.rows():
                        found.rows += 1
                        try:
                            if isinstance(row, RowError):
                                raise row
                            content = convert(row)
                            check_content(content, kind)
                        except RowError as error:
                            kept = getattr(row, "row", None) if row is error else row
                            reject = Reject(origin, error.reason, error.detail, kept)
                            yield None, row, origin, self._note(reject)
                        else:
                            yield content, row, origin, None
                    self._told.update(sum(known.rows for known in self.files))
            except DataError as error:
                found.problem = error

    def _text_fields(self, file: SourceConfig) -> tuple[tuple[str, ...], ...]:
        return (find_text_fields(file, self.data.text),) if self.data.text else ()

    def _settle_format(self, file: SourceConfig, found: FileFindings) -> str:
        """Settle a file's format and what its rows shall be."""
        kind = self.data.kind
        if kind == "text" or (kind == "auto" and (is_text_file(file) or file.format == "text")):
            text = self.data.text or TextDataConfig(sources=(file,))
            found.format, found.evidence = choose_text_format(file, text)
            return "text"
        wanted = {"auto": ("chat", "preference"), "prompt": ("chat",)}.get(kind, (kind,))
        problem: DataError | None = None
        for one in wanted:
            try:
                found.format, found.evidence = choose_source_format(file, one)
            except DataError as error:
                problem = problem or error
                continue
            # Rows of this format have no answer, and are meant to have none.
            answered = found.format != "prompt"
            return kind if kind != "auto" else one if answered else "prompt"
        if kind == "auto" and _has_text(file):
            found.format, found.evidence = choose_text_format(file, TextDataConfig(sources=(file,)))
            return "text"
        assert problem is not None
        raise problem

    def _note(self, reject: Reject, file: FileFindings | None = None) -> Reject:
        (file or self.files[-1]).add(reject)
        if self._first is None and reject.reason not in NOT_FAULTS:
            self._first = reject
        return reject

    def lines(self) -> Iterator[str]:
        """Yield what to tell: file by file, then all together."""
        if len(self.files) == 1 and self.files[0].problem:
            return  # it is the error that ends the command
        for file in self.files:
            yield from file.lines()
        if len(self.files) > 1:
            rows = sum(file.rows for file in self.files)
            records = rows - sum(file.count_without(USABLE) for file in self.files)
            unusable = sum(file.count_without(NOT_FAULTS) for file in self.files)
            yield f"together: {rows:,} rows, {records:,} records, {unusable:,} unusable"

    def find_problem(self) -> DataError | None:
        """Return why the data set cannot be used, if so."""
        for file in self.files:
            if file.problem:
                return file.problem
        settings = self.data.contamination
        if settings and settings.action == "error":
            found = [f.places[CONTAMINATED][0] for f in self.files if CONTAMINATED in f.places]
            if found:
                return DataError(
                    f"{found[0]}: this training row is also an evaluation problem",
                    hint="remove it, or set contamination: drop",
                )
        rows = sum(file.rows for file in self.files)
        unusable = sum(file.count_without(NOT_FAULTS) for file in self.files)
        if self._first is None or unusable <= self.data.max_reject_fraction * rows:
            return None
        first = self._first
        detail = f" ({first.detail})" if first.detail else ""
        return DataError(
            f"{first.origin}: {first.reason}{detail}; {unusable} of {rows} rows are unusable",
            hint=f"mend them, or raise max_reject_fraction above {self.data.max_reject_fraction:g}",
        )


def _has_text(file: SourceConfig) -> bool:
    """Whether the first row that can be read has a field of plain text."""
    fields = set(TextDataConfig.model_fields["text_fields"].default)
    rows = (row for batch in scan_source(file) for _, row in batch.rows())
    first = next((row for row in rows if not isinstance(row, RowError)), {})
    return bool(fields & first.keys())


def check_content(content: Content, kind: str) -> None:
    """Check a row as far as that goes without a tokenizer.

    Args:
        content: The converted row.
        kind: ``chat``, ``preference``, ``prompt`` or ``text``.

    Raises:
        RowError: It cannot be trained on.
    """
    if kind == "chat" and isinstance(content, Chat):
        check_chat(content)
        if content.messages[-1]["role"] != "assistant":
            raise RowError("does not end with an assistant turn")
    elif isinstance(content, Preference):
        for answer in (content.chosen, content.rejected):
            check_chat(content.answered(answer))
        if content.chosen == content.rejected:
            raise RowError("chosen and rejected are equal")


class _Place(NamedTuple):
    """Where a row was read."""

    file: int
    line: int
    number: int
    """Among the rows of the file, from 0; several may share a line."""


class _Duplicates:
    """Digests of all rows, and where each was read.

    Args:
        config: How duplicates are told; None where they are not looked for.
    """

    def __init__(self, config: DedupConfig | None) -> None:
        self._config = config
        self._places: list[_Place] = []
        self._rows: list[Any] = []

    def add(self, content: Content, place: _Place) -> None:
        """Note a row."""
        if self._config is None:
            return
        exact = self._config.method == "exact"
        self._rows.append(exact_digest(content) if exact else near_sketch(content))
        self._places.append(place)

    def find(self) -> Iterator[tuple[_Place, _Place]]:
        """Yield the place of each repeated row, in order, and that of the one it repeats."""
        if self._config is None or not self._rows:
            return
        if self._config.method == "exact":
            digests = np.frombuffer(b"".join(self._rows), np.uint8).reshape(-1, 16)
            first = find_duplicates_exact(digests)
        else:
            offsets = np.cumsum([0, *map(len, self._rows)], dtype=np.int64)
            sketches = np.concatenate(self._rows)
            first = find_duplicates_near(offsets, sketches, self._config.threshold)
        for row in np.flatnonzero(first >= 0).tolist():
            yield self._places[row], self._places[int(first[row])]
