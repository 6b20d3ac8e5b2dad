"""Plain text -> documents: a file, its lines, or its paragraphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from posttrain.data.readers.blocks import TornFileError
from posttrain.data.readers.parse import LARGEST_ROW, BrokenRowError
from posttrain.data.records import Row


def scan_documents(
    numbered: Iterable[tuple[int, bytes | BrokenRowError]], unit: str
) -> Iterator[tuple[int, Row | BrokenRowError]]:
    """Part text into documents.

    Args:
        numbered: Lines of the file.
        unit: ``line`` or ``paragraph`` (parted by blank lines).

    Yields:
        First line and ``{"text": ...}``, or what is wrong with the document; blank lines between
        documents belong to none.
    """
    held: list[str] = []
    start = number = size = 0
    for _, raw in numbered:
        if isinstance(raw, BrokenRowError):
            if held:
                yield start, build_document("".join(held).rstrip("\r\n"))
            number, held, size = number + 1, [], 0
            yield number, raw
            continue
        for line in (raw.decode(errors="surrogateescape") + "\n").splitlines(keepends=True):
            number += 1
            blank = not line.strip()
            if held and (blank or unit == "line" or size > LARGEST_ROW):
                yield start, build_document("".join(held).rstrip("\r\n"))
                held, size = [], 0
            if not blank:
                start = start if held else number
                held.append(line)
                size += len(line)
    if held:
        yield start, build_document("".join(held).rstrip("\r\n"))


def read_whole(blocks: Iterator[bytes]) -> Iterator[tuple[int, Row | BrokenRowError]]:
    """Yield a file as one document, which has to be held whole; none where it is empty."""
    held: list[bytes] = []
    try:
        held.extend(blocks)
    except TornFileError as error:
        yield 1, BrokenRowError("the file is damaged", str(error), b"".join(held[:1]))
        return
    if text := b"".join(held).decode(errors="surrogateescape"):
        yield 1, build_document(text)


def build_document(text: str) -> Row | BrokenRowError:
    """Make a row of a text; bytes that are no UTF-8 are half surrogate pairs in it."""
    if "\0" in text:
        return BrokenRowError("a NUL character", "", text)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text[:8000].encode(errors="surrogateescape").decode(errors="replace")
        return BrokenRowError("not UTF-8 text", f"at character {error.start + 1}", shown)
    return {"text": text}
