"""JSON that is no line of its own: arrays and objects that run on, read piece by piece."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Generator, Iterator

from posttrain.data.readers.blocks import TornFileError
from posttrain.data.readers.parse import (
    LARGEST_ROW,
    SHOWN,
    BrokenRowError,
    describe_error,
    scan_value,
)

_SPACE = re.compile(r"[ \t\r\n]*")
GAP = re.compile(r"[ \t\r\n,]*")
_OUTSIDE = re.compile(r'["\[\]{},]')
_INSIDE = re.compile(r'["\\\n]')
# JSON texts hold no line feed. Where one is followed by a key or a closing bracket, the text's end
# was forgotten; else the line feed was not escaped.
_NEXT_LINE = re.compile(r'\s*(?:"[^"\n]*"\s*:|[]}])')
# What the scanner reports of a value that only goes on behind the end of the text is at most so
# far before it: a literal, or an escape. An open text is reported at its beginning.
TAIL = 16
_MUCH = 1 << 20
_AHEAD = 1 << 10


class JsonText:
    """The text of a file, of which only what is being looked at is held.

    Args:
        blocks: UTF-8; bytes that are none are kept apart as half surrogate pairs.
        line: Its first one's number.
    """

    def __init__(self, blocks: Iterator[bytes], line: int = 1) -> None:
        self.text = ""
        self.position = 0
        self.line = line
        """Line of ``position``."""
        self.torn = ""
        """Why the rest of the file cannot be read."""
        self.ended = False
        """Whether all that can be read is in ``text``."""
        self._blocks = blocks
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._column = 0
        self._passed = 0

    def fill(self, size: int = 1) -> bool:
        """Read on, and let go of what is before ``position``.

        Args:
            size: Characters to hold behind ``position`` at least, where there are so many.

        Returns:
            Whether there was more to read.
        """
        held = [self.text[self.position :]]
        length = before = len(held[0])
        while not self.ended and (length < size or length == before):
            try:
                block = next(self._blocks, None)
            except TornFileError as error:
                block, self.torn = None, str(error)
            self.ended = block is None
            held.append(self._decoder.decode(block or b"", final=self.ended))
            length += len(held[-1])
        passed = self.text[: self.position]
        last = passed.rfind("\n")
        self._passed += len(passed)
        self._column = len(passed) - last - 1 if last >= 0 else self._column + len(passed)
        self.text, self.position = "".join(held), 0
        return length > before

    def move(self, position: int) -> None:
        """Go on to a later place in ``text``."""
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def peek(self, gap: re.Pattern[str] = _SPACE) -> str:
        """Skip white space and return the next character; empty at the end of the file."""
        while True:
            found = gap.match(self.text, self.position)
            assert found is not None  # it matches nothing as well
            self.move(found.end())
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.fill():
                return ""

    def read_value(self, largest: int) -> tuple[int, bytes | BrokenRowError] | None:
        """Read the JSON value that begins here.

        Args:
            largest: Characters; a longer value is not held.

        Returns:
            Its line and text, ``position`` behind it; or the line of a break and what is wrong,
            ``position`` unmoved; or None where the file ends before the value does.
        """
        while True:
            try:
                _, end = scan_value(self.text, self.position)
            except (ValueError, RecursionError, StopIteration) as error:
                place = find_break(error)
                if place < len(self.text) - (0 if self.ended else TAIL):
                    return self._describe(error, max(place, self.position))
                if self.ended:
                    return None
            else:
                if end < len(self.text) or self.ended:  # a number may go on in the next block
                    line, raw = self.line, self.text[self.position : end]
                    self.move(end)
                    return line, raw.encode("utf-8", "surrogateescape")
            held = len(self.text) - self.position
            if held > largest:
                problem = f"{held >> 20:,} MiB or more"
                return self.line, BrokenRowError("row too large", problem, self.show())
            # Twice as much each time: what is parsed again then adds up to less than twice all.
            self.fill(max(2 * held, _MUCH))

    def skip_value(self) -> bool:
        """Go behind a broken value: to where its brackets are closed, or before a comma.

        Returns:
            Whether there is such a place.
        """
        depth, inside = 0, False
        while True:
            found = (_INSIDE if inside else _OUTSIDE).search(self.text, self.position)
            if not found or (found[0] == "\\" and found.end() == len(self.text)):
                self.move(found.start() if found else len(self.text))
                if not self.fill():
                    return False
                continue
            mark = found[0]
            if depth == 0 and mark in ",]":
                self.move(found.start())
                return True
            self.move(found.end() + (mark == "\\"))
            if mark == "\n":
                if len(self.text) - self.position < _AHEAD:
                    self.fill(_AHEAD)
                inside = not _NEXT_LINE.match(self.text, self.position)
            elif mark == '"':
                inside = not inside
            elif mark in "[{":
                depth += 1
            elif not inside and mark in "]}":
                depth -= 1
                if depth <= 0:
                    return True

    @property
    def offset(self) -> int:
        """Characters before ``position`` in the whole file."""
        return self._passed + self.position

    def show(self, most: int = SHOWN) -> bytes:
        """Return what follows, as far as it is held: at most so many characters."""
        beginning = self.text[self.position : self.position + most]
        return beginning.encode("utf-8", "surrogateescape")

    def _describe(self, error: Exception, place: int) -> tuple[int, BrokenRowError]:
        line = self.line + self.text.count("\n", self.position, place)
        broken = describe_error(error, self.text[place : place + 1])
        detail = broken.detail
        if broken.reason == "broken JSON":
            last = self.text.rfind("\n", 0, place)
            column = place - last if last >= 0 else self._column + place + 1
            detail = f"at column {column}: {getattr(error, 'msg', 'Expecting value')}"
        return line, BrokenRowError(broken.reason, detail, self.show())


def find_break(error: Exception) -> int:
    """Where a value is broken; behind all text where it may only not be read to its end."""
    if isinstance(error, StopIteration):
        return int(error.value)
    if not isinstance(error, json.JSONDecodeError):
        return -1
    return sys.maxsize if error.msg.startswith("Unterminated string") else error.pos


def scan_array(
    text: JsonText, *, largest: int = LARGEST_ROW
) -> Iterator[tuple[int, bytes | BrokenRowError]]:
    """Read the items of an array, standing behind its bracket.

    Args:
        text: The file.
        largest: Characters; a longer item is left out, and never held as a whole.

    Yields:
        Line on which it starts and text of each item, or what is wrong: with one item, and
        reading goes on behind it; or with all that follows.
    """
    if not (yield from _scan_items(text, "]", largest)):
        return
    if text.peek():
        text.move(text.position + 1)
        if text.peek():
            yield text.line, BrokenRowError("text after the end of the JSON array", "", text.show())
    elif not text.torn:
        yield text.line, BrokenRowError("the JSON array is not closed")
    if text.torn:
        yield text.line, BrokenRowError("the file is damaged", text.torn)


def scan_objects(text: JsonText) -> Iterator[tuple[int, bytes | BrokenRowError]]:
    """Read objects that follow each other to the end of the file, each over several lines.

    Yields:
        As ``scan_array``.
    """
    if (yield from _scan_items(text, "", LARGEST_ROW)) and text.torn:
        yield text.line, BrokenRowError("the file is damaged", text.torn)


def _scan_items(
    text: JsonText, end: str, largest: int
) -> Generator[tuple[int, bytes | BrokenRowError], None, bool]:
    """Yield items up to ``end``; return whether it was reached, or the rest has been told."""
    while text.peek(GAP) not in ("", end):
        found = text.read_value(largest)
        if found is None:
            reason = "the JSON array is not closed" if end else "the file ends inside a row"
            reason = "the file is damaged" if text.torn else reason
            yield text.line, BrokenRowError(reason, text.torn, text.show())
            return False
        line, item = found
        if isinstance(item, BrokenRowError):
            start = text.offset
            if text.peek() in "]}":  # closes nothing
                text.move(text.position + 1)
            elif not text.skip_value():
                yield (
                    line,
                    BrokenRowError(item.reason, f"{item.detail}; nothing more is read", item.row),
                )
                return False
            while text.peek() == "}":  # one bracket too many belongs to it
                text.move(text.position + 1)
            item.row = item.row[: text.offset - start]
        yield line, item
    return True
