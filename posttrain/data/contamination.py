"""Search training rows for problems of the evaluation sets."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.data.dedup import comparable_text
from posttrain.data.records import Content, Record, Text
from posttrain.data.words import CJK, Array, hash_runs, hash_words

# Signs before a number, and points within one, make another problem: 3 + 4 is not 3 - 4.
_SIGN = r"[-+*/=<>^%](?=\s*{?[\d.(])|(?<=\d)\.(?=\d)"
_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
_WORD_OR_SIGN = re.compile(rf"{_WORD.pattern}|{_SIGN}")
_NUMBER_OR_SIGN = re.compile(rf"[^\W_{CJK}]*\d[^\W_{CJK}]*|{_SIGN}")
_CJK_SIGN = re.compile(f"[{CJK}]")
_MINUS = str.maketrans("\u2212\u2013\u00d7\u00f7", "--*/")

_WHOLE = "prompt text"
_RUNS = "n-grams"
_FEWEST_WORDS = 5
_FIRST_WORDS = 8
_SHOWN_SIGNS = 200
# Of how many problems a run may be part and still tell which one it is.
_MOST_PROBLEMS = 3


@dataclass(frozen=True)
class Match:
    """An evaluation problem that a training row holds."""

    what: str
    """What matched: ``prompt text``, ``n-grams``, or a field's name."""
    origin: str
    """Where the problem was read."""
    share: float
    """Of the problem's words that count."""
    text: str
    """The longest run of them that both have, or the field's value."""


def normalize_text(text: str) -> str:
    """Fold case, width, punctuation and spacing, so that only words, numbers and signs remain."""
    return " ".join(_WORD_OR_SIGN.findall(_fold(text.translate(_MINUS))))


class ContaminationIndex:
    """The evaluation problems, laid out for looking training rows up.

    It is made once and handed to worker processes; looking up changes nothing.

    Args:
        evaluation: The problems that must not be trained on.
        keys: Row fields that identify a problem besides its text.
        ngram: Words of a run. Of problems in which every other word is a sign of Chinese or
            Japanese a run has twice as many: such a sign is about half a word. None looks for whole
            problems only.
        coverage: Least share of a problem's words that lie in runs which the training row has too.
            Words in runs that stand in more than three of the problems do not count: an instruction
            before every problem tells none of them.

    Source:
        Lambert et al. 2024, arXiv:2411.15124: runs of 8 words, half of the problem. What does not
        count, and that the numbers must be there, is ours: problems of one template would match.
    """

    def __init__(
        self,
        evaluation: Iterable[Record[Any]],
        keys: Sequence[str] = (),
        *,
        ngram: int | None = 8,
        coverage: float = 0.5,
    ) -> None:
        self.problems = 0
        self._keys = tuple(keys)
        self._by_key: dict[tuple[str, str], str] = {}
        self._by_text: dict[bytes, list[_Problem]] = {}
        parted: dict[int, list[_Problem]] = {}
        short: dict[int, list[_Problem]] = {}
        for record in evaluation:
            self.problems += 1
            for key in self._keys:
                if key in record.content.keys:
                    place = str(record.origin)
                    self._by_key.setdefault((key, record.content.keys[key]), place)
            problem = _Problem(record)
            same = self._by_text.setdefault(_digest(problem.words), [])
            # A prompt of punctuation alone says nothing; two of them are not the same problem.
            if not problem.text or any(problem.text == other.text for other in same):
                continue
            same.append(problem)
            size = problem.sign_words * (ngram or sys.maxsize)
            if len(problem.words) >= size:
                parted.setdefault(size, []).append(problem)
            elif len(problem.text.split()) >= problem.sign_words * _FEWEST_WORDS:
                short.setdefault(min(len(problem.words), _FIRST_WORDS), []).append(problem)
        self._runs = [_RunIndex(parted[size], size, coverage) for size in sorted(parted)]
        # By their first words; that the others follow is looked at where these are found.
        self._short = {
            size: (np.concatenate([hash_runs(p.words[:size], size) for p in problems]), problems)
            for size, problems in sorted(short.items())
            if size
        }

    def find(self, content: Content) -> Match | None:
        """Find an evaluation problem in a training row, in the first of these ways that finds one.

        - The row's prompt is the problem's, but for case, width, spacing and punctuation.
        - The value of a key is the problem's.
        - Plain text: all of a problem that is too short for the next way stands in it.
        - Anywhere in the row, in an answer too, are enough of the problem's words in runs, and all
          its numbers with their signs, one after another: a problem made from the same template
          with other numbers is another problem. Of several, that of which most is there.
        """
        prompt, everything = content.prompt_text, comparable_text(content)
        if isinstance(content, Text):
            words, _ = hash_words(_fold(everything), "letters")
            asked = words
        else:
            folded = _fold(prompt)
            words, starts = hash_words(f"{folded}\n{_fold(everything)}", "letters")
            asked = words[: starts.searchsorted(len(folded))]
        for problem in self._by_text.get(_digest(asked), ()):
            if problem.text == normalize_text(prompt):
                return Match(_WHOLE, problem.place, 1.0, problem.text[:_SHOWN_SIGNS])
        for key in self._keys:
            value = content.keys.get(key)
            if value is not None and (key, value) in self._by_key:
                return Match(key, self._by_key[key, value], 1.0, value[:_SHOWN_SIGNS])
        if isinstance(content, Text) and (match := self._find_short(words, prompt)):
            return match
        return self._find_runs(words, everything)

    def _find_short(self, words: Array, text: str) -> Match | None:
        """Find a problem of few words that stands in a document, signs and all."""
        normalized = ""
        for size, (hashes, problems) in self._short.items():
            for number in np.flatnonzero(np.isin(hashes, hash_runs(words, size))).tolist():
                normalized = normalized or f" {normalize_text(text)} "
                if f" {problems[number].text} " in normalized:
                    found = problems[number]
                    return Match(_WHOLE, found.place, 1.0, found.text[:_SHOWN_SIGNS])
        return None

    def _find_runs(self, words: Array, text: str) -> Match | None:
        found = [match for runs in self._runs for match in runs.find(words, text)]
        if not found:
            return None
        share, problem, covered = max(found, key=lambda match: match[0])
        return Match(_RUNS, problem.place, share, problem.show(covered))


class _Problem:
    """What is compared of an evaluation problem."""

    def __init__(self, record: Record[Any]) -> None:
        prompt = record.content.prompt_text
        self.place = str(record.origin)
        self.text = normalize_text(prompt)
        self.numbers = _read_numbers(prompt)
        self.words, _ = hash_words(_fold(prompt), "letters")
        self._prompt = prompt

    @property
    def sign_words(self) -> int:
        """How many of our words make one: 2 where half of them are signs of Chinese or Japanese."""
        return 2 if 2 * len(_CJK_SIGN.findall(_fold(self._prompt))) >= len(self.words) else 1

    def show(self, covered: Array) -> str:
        """Return the longest stretch of covered words, as it is compared."""
        edges = np.flatnonzero(np.diff(covered, prepend=False, append=False)).reshape(-1, 2)
        start, end = max(edges.tolist(), key=lambda edge: edge[1] - edge[0])
        folded = _fold(self._prompt)
        found = list(_WORD.finditer(folded))
        return folded[found[start].start() : found[end - 1].end()][:_SHOWN_SIGNS]


class _RunIndex:
    """All runs of some problems' words, and where they stand.

    Args:
        problems: Each of at least ``size`` words.
        size: Words of a run.
        coverage: Least share of a problem's words.
    """

    def __init__(self, problems: Sequence[_Problem], size: int, coverage: float) -> None:
        self._size = size
        self._coverage = coverage
        self._problems = problems
        runs = [hash_runs(problem.words, size) for problem in problems]
        counts = [len(run) for run in runs]
        hashes = np.concatenate(runs)
        problem_of: Array = np.repeat(np.arange(len(runs), dtype=np.int32), counts)
        place_of = np.concatenate([np.arange(n, dtype=np.int32) for n in counts])
        telling = _find_telling(hashes, problem_of)
        telling_of = np.split(telling, np.cumsum(counts)[:-1])
        self._counting = [
            ~self._cover(problem, np.flatnonzero(~places))
            for problem, places in zip(problems, telling_of, strict=True)
        ]
        self._lengths = np.array([np.count_nonzero(words) for words in self._counting])
        order = np.flatnonzero(telling)
        order = order[np.argsort(hashes[order], kind="stable")]
        self._hashes, self._problem_of = hashes[order], problem_of[order]
        self._place_of = place_of[order]
        # Most rows share no run: one look into this table, by the runs' first bits, says so.
        self._shift = np.uint64(64 - min(24, max(12, 6 + len(hashes).bit_length())))
        self._maybe: Array = np.zeros(1 << (64 - int(self._shift)), bool)
        self._maybe[self._hashes >> self._shift] = True

    def find(self, words: Array, text: str) -> Iterator[tuple[float, _Problem, Array]]:
        """Yield the problems of which enough is in a row: the share, and which of their words."""
        runs = hash_runs(words, self._size)
        runs = runs[self._maybe[runs >> self._shift]]
        starts = np.minimum(self._hashes.searchsorted(runs), len(self._hashes) - 1)
        runs = runs[self._hashes[starts] == runs]
        if not len(runs):
            return
        problem_of, place_of = self._look_up(np.unique(runs))
        found = np.bincount(problem_of, minlength=len(self._problems))
        # A first sift: no run covers more words than it has.
        enough = (found * self._size >= self._coverage * self._lengths) & (
            found * self._lengths > 0
        )
        numbers = f" {_read_numbers(text)} " if enough.any() else ""
        for number in np.flatnonzero(enough).tolist():
            problem = self._problems[number]
            if problem.numbers and f" {problem.numbers} " not in numbers:
                continue
            covered = self._cover(problem, place_of[problem_of == number])
            counted = np.count_nonzero(covered & self._counting[number])
            share = float(counted / self._lengths[number])
            if share >= self._coverage:
                yield share, problem, covered

    def _cover(self, problem: _Problem, places: Array) -> Array:
        """Mark the words of a problem that lie in the runs at some places, [words]."""
        covered: Array = np.zeros(len(problem.words), bool)
        for place in places.tolist():
            covered[place : place + self._size] = True
        return covered

    def _look_up(self, runs: Array) -> tuple[Array, Array]:
        """Return for every place of some known runs the problem and the number of the word."""
        starts, ends = (self._hashes.searchsorted(runs, side) for side in ("left", "right"))
        places = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])
        return self._problem_of[places], self._place_of[places]


def _find_telling(hashes: Array, problem_of: Array) -> Array:
    """Mark the runs that stand in few of the problems: what many begin with tells none of them."""
    order = np.lexsort((problem_of, hashes))
    differs = hashes[order][1:] != hashes[order][:-1]
    group = np.concatenate([[0], np.cumsum(differs)])
    another = np.concatenate([[True], differs | (np.diff(problem_of[order]) != 0)])
    problems = np.bincount(group, weights=another)
    telling: Array = np.empty(len(hashes), bool)
    telling[order] = problems[group] <= _MOST_PROBLEMS
    return telling


def _read_numbers(text: str) -> str:
    """Numbers, signs before them, and words with digits, in their order."""
    return " ".join(_NUMBER_OR_SIGN.findall(_fold(text.translate(_MINUS))))


def _fold(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _digest(words: Array) -> bytes:
    return hashlib.blake2b(words.tobytes(), digest_size=16).digest()
