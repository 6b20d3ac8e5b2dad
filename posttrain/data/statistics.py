"""What a data set is like: counts of its rows, and figures of its examples.

Rows are counted where they are read, a chunk at a time, and chunks add up. Examples are described
from their finished store, block by block, so that memory does not grow with the tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from posttrain.data.pack import pack_sizes
from posttrain.data.records import Chat, Content, Message, Preference
from posttrain.data.store import ExampleStore

Array = np.ndarray[Any, Any]
_NAMES_SHOWN = 20
_LONGEST_SHOWN = 10
_BINS = 40
_BATCH_TOKENS = 8192
_MOST_PACKED = 100_000
_BLOCK_EXAMPLES = 4096
_LANGUAGE_EVERY = 16
_LANGUAGE_CHARACTERS = 200
# Every script is a class of characters; a sign of Chinese or Japanese stands for a word.
_SCRIPTS = {
    "Chinese": re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"),
    "Japanese": re.compile("[\u3040-\u30ff]"),
    "Korean": re.compile("[\uac00-\ud7af]"),
    "Cyrillic script": re.compile("[\u0400-\u04ff]+"),
    "Arabic script": re.compile("[\u0600-\u06ff]+"),
    "Greek": re.compile("[\u0370-\u03ff]+"),
    "Indic script": re.compile("[\u0900-\u0dff]+"),
    "Thai": re.compile("[\u0e00-\u0e7f]{1,4}"),
    "Latin script": re.compile("[A-Za-z\u00c0-\u024f]+"),
}
# Words that make up a third of English, and of no other language.
_ENGLISH = {
    *("the", "and", "of", "to", "is", "are", "was", "were", "be", "have", "has", "this", "that"),
    *("with", "for", "from", "by", "it", "you", "your", "what", "which", "how", "who", "when"),
    *("where", "why", "if", "not", "can", "will", "would", "should", "please"),
}
_ENGLISH_SHARE = 0.1


@dataclass
class RowCounts:
    """Counts of rows by what they hold; those of two chunks add up."""

    rows: int = 0
    turns: Counter[int] = field(default_factory=Counter)
    """Rows by their number of messages; of a pair, with one of its answers."""
    roles: Counter[str] = field(default_factory=Counter)
    """Messages by role."""
    marks: Counter[str] = field(default_factory=Counter)
    """Rows with a system turn, with tools, with calls, with reasoning; and all calls."""
    called: Counter[str] = field(default_factory=Counter)
    """Calls by the name of the tool."""
    languages: Counter[str] = field(default_factory=Counter)
    """Rows by language, or by script where it does not tell the language; of a chunk's first 16
    rows and every 16th after them."""

    def count_content(self, content: Content) -> None:
        """Count one row."""
        if self.rows < _LANGUAGE_EVERY or self.rows % _LANGUAGE_EVERY == 0:
            self.languages[find_language(content.prompt_text)] += 1
        self.rows += 1
        if isinstance(content, Chat):
            messages: Sequence[Message] = content.messages
        elif isinstance(content, Preference):
            messages = (*content.prompt, content.chosen)
        else:
            return
        self.turns[len(messages)] += 1
        roles = [message["role"] for message in messages]
        for role in roles:
            self.roles[role] += 1
        marks = self.marks
        if "system" in roles:
            marks["with_system"] += 1
        if content.tools:
            marks["with_tools"] += 1
        calls = [call for m in messages if "tool_calls" in m for call in m["tool_calls"] or ()]
        if calls:
            marks["with_calls"] += 1
            marks["calls"] += len(calls)
            for call in calls:
                self.called[call["function"]["name"]] += 1
        for message in messages:
            if message.get("reasoning_content"):
                marks["with_reasoning"] += 1
                break

    def merge(self, other: RowCounts) -> None:
        """Add the counts of another chunk."""
        self.rows += other.rows
        for name in ("turns", "roles", "marks", "called", "languages"):
            getattr(self, name).update(getattr(other, name))

    def report(self) -> dict[str, Any]:
        """Return the entries of ``report.json``: turns, roles, tools, languages."""
        marks = ("with_system", "with_tools", "with_calls", "with_reasoning", "calls")
        names = sorted(self.called.items(), key=lambda item: (-item[1], item[0]))
        return {
            "turns": {str(turns): self.turns[turns] for turns in sorted(self.turns)},
            "roles": _by_count(self.roles),
            "tools": {
                **{mark: self.marks[mark] for mark in marks},
                "distinct_called": len(names),
                "most_called": dict(names[:_NAMES_SHOWN]),
            },
            "languages": {
                "sampled": self.languages.total(),
                "counts": _by_count(self.languages),
            },
        }


def _by_count(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def find_language(text: str) -> str:
    """Tell the language of a text's beginning by its script, and English by its small words.

    Args:
        text: Any text.

    Returns:
        A language, or a script where several languages share it; ``no words`` of a text without.
    """
    text = text[:_LANGUAGE_CHARACTERS]
    words = text.lower().split()
    if text.isascii():
        found = {"Latin script": sum(map(str.isalpha, words))}
    else:
        found = {name: len(script.findall(text)) for name, script in _SCRIPTS.items()}
        if found["Japanese"] * 10 > found["Chinese"]:
            found["Japanese"] += found.pop("Chinese")
    script = max(found, key=lambda name: found[name])
    if script == "Latin script":
        small = sum(word.strip(".,:;?!") in _ENGLISH for word in words)
        if small and small >= _ENGLISH_SHARE * len(words):
            return "English"
    return script if found[script] or any(map(str.isalpha, text)) else "no words"


def describe_examples(train: ExampleStore, validation: ExampleStore) -> dict[str, Any]:
    """Describe finished examples.

    Args:
        train: Training examples, at least one.
        validation: Validation examples, maybe none.

    Returns:
        The entries of ``report.json``: tokens, trained_tokens, length_tokens, length_histogram,
        supervised, longest, packing.
    """
    stores = (train, validation)
    lengths = np.concatenate([np.asarray(store.lengths) for store in stores])
    trained: list[Array] = []
    weights: Counter[float] = Counter()
    for store in stores:
        for found, values in _blocks(store):
            trained.append(found)
            weights.update(values)
    supervised = np.concatenate(trained)
    return {
        "tokens": int(lengths.sum()),
        "trained_tokens": int(supervised.sum()),
        **describe_lengths(lengths),
        "supervised": {
            "share": float(supervised.sum() / lengths.sum()),
            "histogram": _histogram(supervised / lengths, np.linspace(0, 1, 21)),
            "weights": {f"{value:g}": weights[value] for value in sorted(weights)},
        },
        "longest": _list_longest(stores, lengths),
        "packing": describe_packing(np.asarray(train.lengths)),
    }


def _blocks(store: ExampleStore) -> Iterator[tuple[Array, Counter[float]]]:
    """Trained tokens per example [examples], and tokens by weight, some examples at a time."""
    for start in range(0, len(store), _BLOCK_EXAMPLES):
        offsets = np.asarray(store.offsets[start : start + _BLOCK_EXAMPLES + 1])
        weights = np.asarray(store.weights[offsets[0] : offsets[-1]])
        trained = weights != 0
        counts = np.add.reduceat(trained, offsets[:-1] - offsets[0], dtype=np.int64)
        ones = int(np.count_nonzero(weights == 1))
        values = Counter({0.0: len(weights) - int(counts.sum()), 1.0: ones})
        if values.total() < len(weights):
            others = weights[trained & (weights != 1)]
            found = zip(*(a.tolist() for a in np.unique(others, return_counts=True)), strict=True)
            values.update(dict(found))
        yield counts, +values


def describe_lengths(lengths: Array) -> dict[str, Any]:
    """Describe lengths in tokens [examples], at least one: exact percentiles and a histogram.

    The histogram ends where 99.5 % of the examples do; ``beyond`` counts the others.
    """
    bound = float(np.percentile(lengths, 99.5)) if len(lengths) >= 200 else float(lengths.max())
    low = float(lengths.min())
    bins = min(_BINS, max(1, int(bound - low)))
    histogram = _histogram(lengths, np.linspace(low, max(bound, low + 1), bins + 1))
    return {
        "length_tokens": {
            "mean": float(lengths.mean()),
            **{f"p{q}": float(np.percentile(lengths, q)) for q in (50, 90, 99)},
            "max": int(lengths.max()),
        },
        "length_histogram": {**histogram, "beyond": int(np.count_nonzero(lengths > bound))},
    }


def _histogram(values: Array, edges: Array) -> dict[str, Any]:
    counts, _ = np.histogram(values, bins=edges)
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def _list_longest(stores: Sequence[ExampleStore], lengths: Array) -> list[list[Any]]:
    found: list[list[Any]] = []
    for index in np.argsort(-lengths.astype(np.int64), kind="stable")[:_LONGEST_SHOWN].tolist():
        inside = index < len(stores[0])
        store, number = (stores[0], index) if inside else (stores[1], index - len(stores[0]))
        found.append([str(store.origin(number)), int(lengths[index])])
    return found


def describe_packing(lengths: Array) -> dict[str, Any]:
    """Say how full batches get that hold these lengths [examples], at least one.

    Of more than 100,000 examples, that many are taken at even distances.
    """
    batch_tokens = max(_BATCH_TOKENS, int(lengths.max()))
    if len(lengths) > _MOST_PACKED:
        chosen: Array = np.linspace(0, len(lengths) - 1, _MOST_PACKED).astype(np.int64)
        lengths = lengths[chosen]
    batches = pack_sizes(np.arange(len(lengths)), lengths, batch_tokens)
    return {
        "batch_tokens": batch_tokens,
        "examples": len(lengths),
        "batches": len(batches),
        "fill": float(lengths.sum() / (len(batches) * batch_tokens)),
    }
