"""The fast encoder beside the tokenizers library: speed, and the same ids.

- ``speed``: texts of a folder (every string of its JSON files, every text file) and generated chats
  (``chat_rows.py``), rendered and encoded in one process; rounds in turn, medians. The other side
  is one call of ``encode_batch`` for all texts on one thread, which is its fastest way.
- ``identity``: every text of the folder, and every line of its text files, both ways.
- ``characters``: every character that Python knows, in the places that patterns speak of, with a
  vocabulary of all pairs of bytes, so that a word that is cut elsewhere has other ids.

    python bench/encoding.py speed --tokenizer Qwen/Qwen3-0.6B --texts data/
"""

import argparse
import gzip
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chat_rows import generate_rows

from posttrain.data.encode import EncodeOptions, encode_records
from posttrain.data.formats.messages import convert_messages
from posttrain.data.records import Origin, Record
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import build_codec
from posttrain.data.tokens.agreement import _assigned
from posttrain.data.tokens.structure import PATTERNS
from tests.byte_level import all_pairs, build_byte_level

_JSON = {".json", ".jsonl"}
_PLACES = "a%|xa % b|1%2|'% |a'% b|%\n|\n%| %  %|!%!|%\u0301x|A%sb|a'l%s|\t% %%"


def read_texts(folder: Path, *, lines: bool = False) -> Iterator[str]:
    """Give every text in a folder's files."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        if path.suffix not in _JSON:
            yield text
            yield from text.splitlines(keepends=True) if lines else ()
            continue
        for part in [text] if path.suffix == ".json" else text.splitlines():
            try:
                yield from _strings(json.loads(part))
            except json.JSONDecodeError:
                yield part


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def measure(sides: dict[str, Callable[[], int]], rounds: int) -> None:
    """Time sides in turn; each gives its number of tokens."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    tokens = {}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            tokens[name] = side()
            seconds[name].append(time.perf_counter() - start)
    first, *_ = sides
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        ratio = statistics.median(b / a for a, b in zip(taken, seconds[first], strict=True))
        print(
            f"  {name:<28} {middle:7.2f} s  {tokens[name] / middle / 1e6:6.2f} Mtok/s  "
            f"{ratio:5.2f} x the first  ({tokens[name]:,} tokens)"
        )


def compare_speed(tokenizer: Any, folder: Path, rounds: int) -> None:
    codec = build_codec(tokenizer)
    codec.sample_every = 0
    texts = [text for text in read_texts(folder) if 40 < len(text) < 100_000]
    print(f"{len(texts):,} texts, {sum(map(len, texts)):,} characters, {codec.name}")
    backend = tokenizer.backend_tokenizer

    def stock(items: list[str]) -> int:
        return sum(len(e.ids) for e in backend.encode_batch(items, add_special_tokens=False))

    def fast(items: list[str]) -> int:
        return sum(len(codec.encode(text)) for text in items)

    measure({"encode_batch": lambda: stock(texts), "codec": lambda: fast(texts)}, rounds)
    rows = list(generate_rows(5000))
    records = [Record(convert_messages(row), Origin("r", i)) for i, row in enumerate(rows)]
    renderer = ChatRenderer(tokenizer)
    pieces = [renderer.split_trained(record.content, "last_assistant") for record in records]
    chats = ["".join(piece.text for piece in row) for row in pieces]
    print(f"{len(chats):,} chats, {sum(map(len, chats)):,} characters")

    def weigh() -> int:
        return sum(len(codec.encode_pieces(row).token_ids) for row in pieces)

    def whole() -> int:
        options = EncodeOptions(10**6, "last_assistant")
        return sum(len(e.token_ids) for e in encode_records(records, renderer, codec, options))

    measure(
        {
            "encode_batch": lambda: stock(chats),
            "codec, ids": lambda: fast(chats),
            "codec, ids and weights": weigh,
            "check, render, ids, weights": whole,
        },
        rounds,
    )


def compare_ids(tokenizer: Any, folder: Path) -> int:
    codec = build_codec(tokenizer)
    texts = list(dict.fromkeys(read_texts(folder, lines=True)))
    differing = 0
    for start in range(0, len(texts), 2000):
        some = texts[start : start + 2000]
        theirs = tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]
        differing += sum(codec.encode(t) != ids for t, ids in zip(some, theirs, strict=True))
    print(f"{len(texts):,} texts, {sum(map(len, texts)):,} characters, {differing} differ")
    return differing


def compare_characters() -> int:
    characters, pairs, differing = _assigned(), all_pairs(), 0
    for name, pattern in PATTERNS.items():
        for nfc in (False, True):
            given = None if name == "gpt2" else pattern
            tokenizer = build_byte_level(given, merges=pairs, nfc=nfc)
            codec = build_codec(tokenizer)
            found = 0
            for start in range(0, len(characters), 2000):
                texts = [_PLACES.replace("%", c) for c in characters[start : start + 2000]]
                theirs = tokenizer(texts, add_special_tokens=False)["input_ids"]
                found += sum(codec.encode(t) != ids for t, ids in zip(texts, theirs, strict=True))
            print(f"{name}{' nfc' * nfc}: {len(characters):,} characters, {found} differ")
            differing += found
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("speed", "identity", "characters"))
    parser.add_argument("--tokenizer", help="name or folder")
    parser.add_argument("--texts", type=Path, help="folder with text and JSON files")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.what == "characters":
        return bool(compare_characters())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    if options.what == "identity":
        return bool(compare_ids(tokenizer, options.texts))
    compare_speed(tokenizer, options.texts, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
