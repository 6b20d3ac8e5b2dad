"""Search training rows for problems of the evaluation sets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.data.records import Record, Reject

# Signs before a number, and points within one, make another problem: 3 + 4 is not 3 - 4.
_SIGN = r"[-+*/=<>^%](?=\s*[\d.(])|(?<=\d)\.(?=\d)"
_WORD_OR_SIGN = re.compile(rf"[^\W_]+|{_SIGN}")
_MINUS = str.maketrans("\u2212\u2013\u00d7\u00f7", "--*/")


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
) -> tuple[list[Reject], ContaminationReport]:
    """Find training rows whose problem is also an evaluation problem.

    A row matches by the normalized text of its prompt, or by equality of one of ``keys``.

    Args:
        training: The rows to search.
        evaluation: The problems that must not be trained on.
        keys: Row fields that identify a problem besides its text.

    Returns:
        One reject per matched training row, and the report.
    """
    known: dict[tuple[str, str], str] = {}
    report = ContaminationReport(training_rows=len(training))
    for record in evaluation:
        report.evaluation_problems += 1
        for fingerprint in _fingerprints(record, keys):
            known.setdefault(fingerprint, str(record.origin))
    rejects = []
    for record in training:
        match = next((f for f in _fingerprints(record, keys) if f in known), None)
        if match is None:
            continue
        what, place = match[0], known[match]
        report.matches[what] = report.matches.get(what, 0) + 1
        if len(report.examples) < 10:
            pair = {"training": str(record.origin), "evaluation": place, "matched": what}
            report.examples.append(pair)
        rejects.append(Reject(record.origin, "in an evaluation set", f"{what}, {place}"))
    return rejects, report


def _fingerprints(record: Record[Any], keys: Sequence[str]) -> list[tuple[str, str]]:
    text = normalize_text(record.content.prompt_text)
    # A prompt of punctuation alone says nothing; two of them are not the same problem.
    prints = [("prompt text", text)] if text else []
    prints.extend((key, record.content.keys[key]) for key in keys if key in record.content.keys)
    return prints
