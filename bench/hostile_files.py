"""Broken files of every kind that is read: made from whole ones by mutation, the same by seed.

`read_hostile(folder, count)` reads some and checks what must hold for any bytes: no error but a
DataError, every row a mapping or a finding with a reason, the same answer in pieces of any size,
and for files of one row a line as many rows and findings as there are lines.

    python bench/hostile_files.py --count 20000
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pickle
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from posttrain.data.readers import scan_batches, scan_texts
from posttrain.data.readers.parse import SHOWN
from posttrain.data.records import RowError
from posttrain.errors import DataError

ROWS = [
    {
        "id": f"r{number}",
        "messages": [
            {"role": "user", "content": f'{number}: say "hi"\n\tthen \\ stop'},
            {"role": "assistant", "content": "你好 😀 " * (number % 3 + 1)},
        ],
        "score": number / 4,
        "note": None,
    }
    for number in range(12)
]
_FLAT = [{"q": f"question {n}, part 2", "a": f'an "answer"\nover lines {n}'} for n in range(12)]
_LINES = "".join(json.dumps(row, ensure_ascii=n % 2 > 0) + "\n" for n, row in enumerate(ROWS))
_TOKENS = [
    b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"NaN", b"-Infinity", b"1e999", b"null",
    b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b";", b"\t", b"\n", b"\r", b"\r\n", b"\n\n",
    b"\\", b"\\ud800", b"\\u0000", b"\x1c", "\u2028".encode(), b'"id": 1, "id": 2, ',
    b"9" * 5000, b"[" * 3000, b'{"a":' * 300,
]  # fmt: skip


def _write_csv(delimiter: str) -> bytes:
    import csv

    text = io.StringIO(newline="")
    table = csv.DictWriter(text, ["q", "a"], delimiter=delimiter)
    table.writeheader()
    table.writerows(_FLAT)
    return text.getvalue().encode()


def _write_arrow(form: str) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    table = pyarrow.Table.from_pylist(ROWS)
    if form == "parquet":
        pyarrow.parquet.write_table(table, sink, row_group_size=4)
        return sink.getvalue()
    make = pyarrow.ipc.new_file if form == "file" else pyarrow.ipc.new_stream
    with make(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=4)
    return sink.getvalue()


def _write_zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.compress(data)


WHOLE: dict[str, Callable[[], bytes]] = {
    "lines.jsonl": lambda: _LINES.encode(),
    "array.json": lambda: json.dumps(ROWS).encode(),
    "pretty.json": lambda: json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "ids.json": lambda: json.dumps({row["id"]: row for row in ROWS}, indent=1).encode(),
    "columns.json": lambda: json.dumps({k: [row[k] for row in ROWS] for k in ROWS[0]}).encode(),
    "wrapper.json": lambda: json.dumps({"version": 1, "data": ROWS}).encode(),
    "objects.json": lambda: "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "commas.csv": lambda: _write_csv(","),
    "semicolons.csv": lambda: _write_csv(";"),
    "tabs.tsv": lambda: _write_csv("\t"),
    "rows.parquet": lambda: _write_arrow("parquet"),
    "file.arrow": lambda: _write_arrow("file"),
    "stream.arrow": lambda: _write_arrow("stream"),
    "utf16.jsonl": lambda: _LINES.encode("utf-16"),
    "utf32.csv": lambda: _write_csv(",").decode().encode("utf-32"),
    "lines.jsonl.gz": lambda: gzip.compress(_LINES.encode(), mtime=0),
    "lines.jsonl.zst": lambda: _write_zstd(_LINES.encode()),
    "paragraphs.txt": lambda: "\n\n".join(row["a"] for row in _FLAT).encode(),
}
"""File name -> a whole file of 12 rows, or of 12 paragraphs."""


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Break some bytes: replaced, cut out, doubled, put in between, or cut short."""
    for _ in range(chance.randint(1, 4)):
        place = chance.randint(0, len(data))
        span = chance.choice((1, 2, 7, 40, 300))
        match chance.randrange(6):
            case 0:
                data = data[:place] + chance.randbytes(min(span, 7)) + data[place + min(span, 7) :]
            case 1:
                data = data[:place] + data[place + span :]
            case 2:
                data = data[:place] + data[place : place + span] + data[place:]
            case 3 | 4:
                data = data[:place] + chance.choice(_TOKENS) + data[place:]
            case 5 if chance.random() < 0.5:
                data = data[:place]
    return data


def check_reading(path: Path) -> tuple[int, int]:
    """Read a file and check what must hold for any bytes.

    Returns:
        Numbers of rows and of findings; (0, 0) where it is refused as a whole.
    """
    answers = []
    for size in (256, 5):
        try:
            answers.append(_read(path, size))
        except DataError as refusal:
            answers.append([])
            message = str(refusal)
            assert message.startswith(str(path)), message
            assert "\n" not in message, message
    assert answers[0] == answers[1], "another answer in smaller pieces"
    rows = sum(kind == "row" for kind, _, _ in answers[0])
    if path.suffix == ".jsonl" and (lines := count_lines(path.read_bytes())):
        assert len(answers[0]) == lines, f"{len(answers[0])} rows and findings of {lines} lines"
    return rows, len(answers[0]) - rows


def _read(path: Path, size: int) -> list[tuple[str, int, str]]:
    found = []
    text = path.suffix == ".txt"
    batches = (
        scan_texts(path, "paragraph", rows_per_batch=size)
        if text
        else scan_batches(path, rows_per_batch=size)
    )
    for batch in batches:
        assert 0 < len(batch) <= size
        for origin, row in pickle.loads(pickle.dumps(batch)).rows():
            if isinstance(row, RowError):
                assert row.reason, origin
                assert len(getattr(row, "row", "")) <= SHOWN, origin
                found.append(("finding", origin.line, row.reason))
            else:
                assert isinstance(row, dict), origin
                json.dumps(row, ensure_ascii=False).encode()
                found.append(("row", origin.line, repr(row)))
    return found


def count_lines(data: bytes) -> int:
    """Rows that a file of JSON lines must give; 0 where it is none after its mutation."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    try:
        first = json.loads(lines[0])
    except (ValueError, IndexError, RecursionError):
        return 0
    return len(lines) if isinstance(first, dict) and data[:1] == b"{" else 0


def read_hostile(folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Read some broken files of every kind; return how many rows and findings there were."""
    chance = random.Random(seed)
    whole = {name: make() for name, make in WHOLE.items()}
    totals: Counter[str] = Counter()
    for number in range(count):
        name = list(whole)[number % len(whole)]
        path = folder / name
        path.write_bytes(mutate(whole[name], chance))
        try:
            rows, findings = check_reading(path)
        except Exception as error:
            error.add_note(f"file {number} of seed {seed}: {name}")
            raise
        totals.update(files=1, rows=rows, findings=findings, refused=not rows and not findings)
    return totals


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(dict(read_hostile(Path(folder), options.count, options.seed)))
