"""A file's bytes in blocks: unpacked, made UTF-8, without its byte order mark."""

from __future__ import annotations

import codecs
import os
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from posttrain.data.readers.parse import LARGEST_ROW, SHOWN, BrokenRowError
from posttrain.errors import DataError
from posttrain.extras import require_extra

BLOCK = 1 << 20
# Packed bytes unpacked at once: 1 KiB of zstd can become 32 MiB, of gzip 16 KiB become 16 MiB.
_ZSTD_STEP, _GZIP_STEP = 1 << 10, 16 << 10
_PACKED = (".gz", ".zst")
_MARKS = {  # UTF-32's begins with UTF-16's, so it comes first
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_POINTER = b"version https://git-lfs"
_FOREIGN = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save it as CSV"),
    b"%PDF": ("a PDF", "take its text out first"),
    b"BZh": ("packed with bzip2", "unpack it, or pack it with gzip or zstd"),
    b"\xfd7zXZ": ("packed with xz", "unpack it, or pack it with gzip or zstd"),
    b"SQLite format 3": ("a database", "export its rows as JSONL or CSV"),
    _POINTER: ("a Git LFS pointer, not the data", "fetch it with `git lfs pull`"),
    b"<!DOCTYPE html": ("a web page", "fetch the file itself"),
    b"<html": ("a web page", "fetch the file itself"),
}
_CONTROL = bytes(set(range(32)) - {9, 10, 11, 12, 13} | {127})


class TornFileError(Exception):
    """The rest of a file cannot be read; the message says why."""


def find_ending(path: Path) -> str:
    """What kind of file it is, such as ``.jsonl``; how it is packed is no part of it."""
    unpacked = path.with_suffix("") if path.suffix.lower() in _PACKED else path
    return unpacked.suffix.lower()


def open_file(path: Path) -> BinaryIO:
    """Open a file of rows.

    Raises:
        DataError: It is missing or cannot be read.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", hint="check the path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def check_file(path: Path) -> Path:
    """Look whether a file of rows can be read, without reading it.

    Returns:
        The path.

    Raises:
        DataError: It does not exist, is a folder, or may not be read.
        MissingExtraError: It needs a package that is not installed.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder", hint="give a file of rows")
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="check the path")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: cannot be read: permission denied")
    if find_ending(path) in (".parquet", ".arrow", ".feather"):
        require_extra("pyarrow.parquet", "parquet")
    return path


def read_blocks(path: Path) -> Iterator[bytes]:
    """Read a text file.

    Yields:
        Bytes of about ``BLOCK``, UTF-8 as far as the file is text. UTF-16 and UTF-32 with a byte
        order mark are made UTF-8.

    Raises:
        DataError: It is missing, may not be read, is no text, or is damaged from its beginning.
        TornFileError: The rest is damaged.
    """
    with open_file(path) as file:
        blocks = _join(_unpack(file, path))
        try:
            first = next(blocks, b"")
        except TornFileError as error:
            raise DataError(f"{path}: {error}", hint="fetch or pack it again") from None
        for mark, encoding in _MARKS.items():
            if first.startswith(mark):
                yield from _transcode(first.removeprefix(mark), blocks, encoding)
                return
        first = first.removeprefix(codecs.BOM_UTF8)
        if first.startswith(_POINTER):
            refuse_foreign(path, first)
        _refuse_tape(path, first)
        _refuse_binary(path, first)
        yield first
        yield from blocks


def number_lines(
    blocks: Iterable[bytes], largest: int = LARGEST_ROW
) -> Iterator[tuple[int, bytes | BrokenRowError]]:
    """Part blocks at line feeds.

    Args:
        blocks: As ``read_blocks`` yields them.
        largest: Bytes; a longer line is left out, and never held as a whole.

    Yields:
        Line number from 1 and the line without its line feed; or why it, or all that follows,
        cannot be used.
    """
    number, size = 1, 0
    parts: list[bytes] = []  # of the line that is being read
    try:
        for block in blocks:
            *ended, rest = block.split(b"\n")
            for line in ended:
                size += len(line)
                whole = b"".join([*parts, line]) if parts else line
                yield number, whole if size <= largest else _too_large(size, whole)
                number, size, parts = number + 1, 0, []
            size += len(rest)
            parts.append(rest)
            if size > largest:
                parts = [parts[0][: 4 * SHOWN]]
    except TornFileError as error:
        yield number, BrokenRowError("the file is damaged", str(error), b"".join(parts))
        return
    if size:
        whole = b"".join(parts)
        yield number, whole if size <= largest else _too_large(size, whole)


def _too_large(size: int, beginning: bytes) -> BrokenRowError:
    return BrokenRowError("row too large", f"{size >> 20:,} MiB or more", beginning)


def _unpack(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the unpacked bytes; what a file is packed with is seen in its first bytes."""
    mark = file.read(4)
    file.seek(0)
    try:
        if mark[:2] == b"\x1f\x8b" or path.suffix.lower() == ".gz":
            yield from _unpack_gzip(file)
        elif mark == b"\x28\xb5\x2f\xfd" or path.suffix.lower() == ".zst":
            yield from _unpack_zstd(file)
        else:
            while block := file.read(BLOCK):
                yield block
    except OSError as error:
        raise TornFileError(f"cannot be read: {error.strerror}") from error


def _unpack_gzip(file: BinaryIO) -> Iterator[bytes]:
    packed = file.read(_GZIP_STEP)
    while packed:  # one member after the other
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            packed = packed or file.read(_GZIP_STEP)
            try:
                block = member.decompress(packed, BLOCK)
            except zlib.error as error:
                raise TornFileError(f"broken gzip: {str(error).rpartition(': ')[2]}") from error
            if not packed and not block and not member.eof:
                raise TornFileError("broken gzip: it is cut short")
            yield block
            packed = member.unconsumed_tail
        packed = (member.unused_data or file.read(_GZIP_STEP)).lstrip(b"\0")  # tapes are padded


def _unpack_zstd(file: BinaryIO) -> Iterator[bytes]:
    import zstandard  # only here: most files need it not

    # Not its stream_reader, which takes a file that is cut short for a whole one.
    packed = file.read(_ZSTD_STEP)
    while packed:
        frame = zstandard.ZstdDecompressor().decompressobj()
        while not frame.eof:
            if not packed:
                packed = file.read(_ZSTD_STEP)
            if not packed:
                raise TornFileError("broken zstd: it is cut short")
            try:
                yield frame.decompress(packed)
            except zstandard.ZstdError as error:
                raise TornFileError(f"broken zstd: {str(error).rpartition(': ')[2]}") from error
            packed = b""
        packed = frame.unused_data or file.read(_ZSTD_STEP)


def _join(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Make larger blocks of small pieces; what was read before a damage is kept."""
    held: list[bytes] = []
    size = 0
    torn: TornFileError | None = None
    while True:
        try:
            piece = next(pieces, None)
        except TornFileError as error:
            piece, torn = None, error
        if piece is not None:
            held.append(piece)
            size += len(piece)
        if size >= BLOCK or (piece is None and size):
            yield b"".join(held)
            held, size = [], 0
        if torn:
            raise torn
        if piece is None:
            return


def _transcode(first: bytes, rest: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Make UTF-8 of UTF-16 or UTF-32; half a surrogate pair becomes bytes that are no UTF-8."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    for block in chain([first], rest):
        try:
            yield decoder.decode(block).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            yield (
                error.object[: error.start]
                .decode(encoding, "surrogatepass")
                .encode("utf-8", "surrogatepass")
            )
            raise TornFileError(f"broken {encoding.upper()}: {error.reason}") from error
    if decoder.getstate()[0]:
        raise TornFileError(f"broken {encoding.upper()}: it is cut short")


def refuse_foreign(path: Path, first: bytes) -> None:
    """Refuse what is known to be something else than rows.

    Raises:
        DataError: The file's first bytes are those of an archive, a web page and the like.
    """
    for mark, (name, hint) in _FOREIGN.items():
        if first.lstrip().lower().startswith(mark.lower()):
            raise DataError(f"{path}: is {name}", hint=hint)


def _refuse_tape(path: Path, first: bytes) -> None:
    if first[257:262] == b"ustar" and b"\0" in first[:257]:
        raise DataError(f"{path}: is a tar archive", hint="unpack it, and give its files of rows")


def _refuse_binary(path: Path, first: bytes) -> None:
    beginning = first[:4096]
    controls = len(beginning) - len(beginning.translate(None, _CONTROL))
    if controls > max(16, len(beginning) // 20) and not any(map(_is_text, first.split(b"\n"))):
        raise DataError(
            f"{path}: is no text", hint="give JSONL, JSON, CSV, Parquet, Arrow or plain text, UTF-8"
        )


def _is_text(line: bytes) -> bool:
    """Whether a line is text beyond doubt: one line of NUL makes no file a binary one."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return len(line) >= 8 and line.translate(None, _CONTROL) == line
