"""Search training rows for problems of the evaluation sets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.data.records import Record, Reject, Text

# Signs before a number, and points within one, make another problem: 3 + 4 is not 3 - 4.
_SIGN = r"[-+*/=<>^%](?=\s*[\d.(])|(?<=\d)\.(?=\d)"
_WORD_OR_SIGN = re.compile(rf"[^\W_]+|{_SIGN}")
_MINUS = str.maketrans("\u2212\u2013\u00d7\u00f7", "--*/")


_TEXT = "prompt text"
_FEWEST_WORDS = 5


@dataclass
class ContaminationReport:
    """What the search saw and found."""

    evaluation_problems: int = 0
    training_rows: int = 0
    matches: dict[str, int] = field(default_factory=dict)
    """Found training rows by what matched: ``prompt text`` or a field's name."""
    examples: list[dict[str, str]] = field(default_factory=list)
    """The first matched pairs: training origin, evaluation origin, what matched."""

    @property
    def matched_rows(self) -> int:
        """Training rows found in an evaluation set."""
        return sum(self.matches.values())


def normalize_text(text: str) -> str:
    """Fold case, width, punctuation and spacing, so that only words, numbers and signs remain."""
    folded = unicodedata.normalize("NFKC", text.translate(_MINUS)).casefold()
    return " ".join(_WORD_OR_SIGN.findall(folded))


def find_contamination(
    training: Sequence[Record[Any]], evaluation: Iterable[Record[Any]], keys: Sequence[str]
) -> tuple[dict[int, Reject], ContaminationReport]:
    """Find training rows whose problem is also an evaluation problem.

    A row matches by the normalized text of its prompt, or by equality of one of ``keys``; plain
    text also where a problem stands inside of it.

    Args:
        training: The rows to search.
        evaluation: The problems that must not be trained on.
        keys: Row fields that identify a problem besides its text.

    Returns:
        Number of each matched training row -> its reject, and the report.
    """
    known: dict[tuple[str, str], str] = {}
    report = ContaminationReport(training_rows=len(training))
    for record in evaluation:
        report.evaluation_problems += 1
        for fingerprint in _fingerprints(record, keys):
            known.setdefault(fingerprint, str(record.origin))
    inside = _ProblemIndex(text for what, text in known if what == _TEXT)
    rejects: dict[int, Reject] = {}
    for number, record in enumerate(training):
        match = next((f for f in _fingerprints(record, keys) if f in known), None)
        if match is None and isinstance(record.content, Text):
            match = inside.find(record.content.text)
        if match is None:
            continue
        what, place = match[0], known[match]
        report.matches[what] = report.matches.get(what, 0) + 1
        if len(report.examples) < 10:
            pair = {"training": str(record.origin), "evaluation": place, "matched": what}
            report.examples.append(pair)
        rejects[number] = Reject(record.origin, "in an evaluation set", f"{what}, {place}")
    return rejects, report


class _ProblemIndex:
    """Finds problems inside of documents, word by word.

    Args:
        problems: Normalized texts; those of few words would be found everywhere and are left out.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self._by_start: dict[tuple[str, ...], list[list[str]]] = {}
        for problem in problems:
            words = problem.split()
            if len(words) >= _FEWEST_WORDS:
                self._by_start.setdefault(tuple(words[:_FEWEST_WORDS]), []).append(words)

    def find(self, document: str) -> tuple[str, str] | None:
        """Return the fingerprint of the first problem that stands in a document."""
        words = normalize_text(document).split() if self._by_start else []
        for place in range(len(words) - _FEWEST_WORDS + 1):
            for problem in self._by_start.get(tuple(words[place : place + _FEWEST_WORDS]), ()):
                if words[place : place + len(problem)] == problem:
                    return _TEXT, " ".join(problem)
        return None


def _fingerprints(record: Record[Any], keys: Sequence[str]) -> list[tuple[str, str]]:
    text = normalize_text(record.content.prompt_text)
    # A prompt of punctuation alone says nothing; two of them are not the same problem.
    prints = [(_TEXT, text)] if text else []
    prints.extend((key, record.content.keys[key]) for key in keys if key in record.content.keys)
    return prints
