"""Records of evaluations as the data that a page's script lists, filters and opens.

The page holds the data as JSON and the script shows whatever is in it as text, so that nothing a
model wrote can become a part of the page.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from posttrain.reports.folders import Row
from posttrain.reports.spans import count_utf16, find_answer_spans
from posttrain.reports.transcripts import describe_parse, message_text

# Script elements end at "</script>" wherever it stands; halves of surrogate pairs have no UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
_SHORTEST_HEAD = 200
"""Characters that all prompts must begin or end with before they are kept apart."""
_TOLD = {
    "id", "sample", "prompt", "reference", "completion", "answer", "parse", "correct", "strict",
    "error", "prompt_tokens", "completion_tokens", "tokens", "seconds", "finished", "groups",
    "cluster", "expected", "options", "excerpt", "score", "digest", "nats", "nats_per_token",
    "perplexity", "bits_per_byte", "bytes",
}  # fmt: skip
"""Fields that have a place of their own on the page."""


@dataclass(frozen=True)
class Browser:
    """One task's problems with the answers of one or several evaluations."""

    label: str
    names: tuple[str, ...]
    """Of the evaluations."""
    count: int
    """Problems in it."""
    data: Markup
    """JSON that may stand in a script element."""


def build_browser(label: str, sides: Mapping[str, Sequence[Row]]) -> Browser:
    """Gather the answers to every problem.

    Args:
        label: Of the task.
        sides: Name of each evaluation -> its records; several records of one ``id`` are samples.

    Returns:
        Problems in the order of the first evaluation, then those that only later ones have.
    """
    texts = _Texts()
    items: dict[str, dict[str, Any]] = {}
    for number, rows in enumerate(sides.values()):
        ends = _find_common_ends(rows)
        for row in rows:
            name = str(row.get("id"))
            item = items.setdefault(name, {"id": name, "sides": [None] * len(sides)})
            side = item["sides"][number]
            if side is None:
                side = item["sides"][number] = {"samples": []}
                _describe_problem(item, side, row, texts, ends)
            side["samples"].append(_describe_sample(row))
    for item in items.values():
        for side in filter(None, item["sides"]):
            side["samples"].sort(key=lambda sample: sample.get("sample", 0))
    data = {
        "label": label,
        "names": list(sides),
        "texts": texts.found,
        "items": list(items.values()),
    }
    return Browser(label, tuple(sides), len(items), embed_json(data))


def embed_json(value: Any) -> Markup:
    """Write JSON that may stand in a script element of type ``application/json``.

    Args:
        value: Whatever JSON can hold; no NaN and no infinity.

    Returns:
        JSON without ``<``, ``>``, ``&``, line separators or halves of surrogate pairs: each is
        written by its number instead.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))  # noqa: S704 - made safe here


@dataclass
class _Texts:
    """Every text of the prompts once: solved examples and system turns are mostly the same."""

    found: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        if text not in self.places:
            self.places[text] = len(self.found)
            self.found.append(text)
        return self.places[text]


def _messages(row: Row) -> list[Row]:
    return [message for message in row.get("prompt") or [] if isinstance(message, dict)]


def _find_common_ends(rows: Iterable[Row]) -> tuple[int, int]:
    """Lengths of what all prompts' last messages begin and end with; 0 where that is short."""
    last = {message_text(messages[-1]) for row in rows if (messages := _messages(row))}
    if len(last) < 2:
        return 0, 0
    head = _common_start(last)
    # Whole lines only: "Question: Wh" is no head.
    head = head[: head.rfind("\n") + 1] if len(head) >= _SHORTEST_HEAD else ""
    tail = _common_start([text[len(head) :][::-1] for text in last])
    return len(head), len(tail[: tail.rfind("\n") + 1])


def _common_start(texts: Collection[str]) -> str:
    # What the first and the last one in order share, all between them share.
    first, last = min(texts), max(texts)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), len(first))]


def _describe_problem(
    item: dict[str, Any], side: dict[str, Any], row: Row, texts: _Texts, ends: tuple[int, int]
) -> None:
    """Note what is asked, once per evaluation, for two may have asked in different words."""
    messages = _messages(row)
    prompt = []
    for message in messages:
        text = message_text(message)
        pieces = [text]
        if message is messages[-1]:
            split = len(text) - ends[1]
            pieces = [text[: ends[0]], text[ends[0] : split], text[split:]]
            item.setdefault("question", texts.place(pieces[1]))
        prompt.append([str(message.get("role", "")), [texts.place(p) for p in pieces if p]])
    if prompt:
        side["prompt"] = prompt
    if "reference" in row:
        item.setdefault("reference", str(row["reference"]))
    if row.get("groups"):
        item.setdefault("groups", {str(k): str(v) for k, v in row["groups"].items()})
    if row.get("cluster") is not None:
        item.setdefault("cluster", str(row["cluster"]))
    if row.get("expected") is not None:
        item.setdefault("expected", _write(row["expected"]))


def _describe_sample(row: Row) -> dict[str, Any]:
    """Note what was answered and what came of it; what is not known is left out."""
    completion = str(row.get("completion", row.get("excerpt", "")))
    answer = None if row.get("answer") is None else str(row["answer"])
    parse = str(row.get("parse", ""))
    sample: dict[str, Any] = {
        "completion": completion,
        "answer": answer,
        "parse": describe_parse(parse) or None,
        "spans": count_utf16(completion, find_answer_spans(completion, answer, parse)) or None,
        "strict": row.get("strict"),
        "error": row.get("error"),
        "finished": row.get("finished"),
    }
    tokens = row.get("completion_tokens", row.get("tokens"))
    measures = {
        "sample": row.get("sample"),
        "tokens": tokens,
        "prompt_tokens": row.get("prompt_tokens"),
        "seconds": row.get("seconds"),
        "score": row.get("score"),
        "bits_per_byte": row.get("bits_per_byte"),
        "perplexity": row.get("perplexity"),
    }
    sample |= {name: _finite(value) for name, value in measures.items()}
    sample["options"] = [_describe_option(option) for option in row.get("options") or []] or None
    sample["more"] = {k: _write(v) for k, v in row.items() if k not in _TOLD} or None
    known = {name: value for name, value in sample.items() if value is not None}
    # Unscored is null and said so; a text that is only foretold has no verdict at all.
    return {**known, "correct": row["correct"]} if "correct" in row else known


def _describe_option(option: Row) -> list[Any]:
    scores = [_finite(option.get(name)) for name in ("logprob", "logprob_per_byte")]
    return [str(option.get("letter", "")), str(option.get("text", "")), *scores]


def _finite(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        return None
    return round(value, 6) if isinstance(value, float) else value


def _write(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
