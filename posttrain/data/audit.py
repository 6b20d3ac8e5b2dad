"""Proof, before the first step, that what is trained is what was meant.

The masks were made by construction; the audit looks at the finished token ids and asks other
questions than the construction did. Cheap ones are asked of every row, a whole chunk at once; dear
ones of the first rows and of every n-th, through the tokenizer's own untouched code path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from posttrain.data.encode import Example
from posttrain.data.readback import (
    Marks,
    PromptIds,
    answers_match,
    marks_match,
    prompt_matches,
    specials_match,
    stock_prompt,
    text_leaks,
    trained_turns,
    turns_match,
    whole_matches,
)
from posttrain.errors import DataError
from posttrain.logs import say

Array = np.ndarray[Any, Any]
_ALWAYS_SAMPLED = 64
_SHOWN = 3
_TRAINED = "at least one trained token"
_FIRST = "first token untrained (nothing predicts it)"
_ENDS = "each trained turn ends with its end token"
_COUNT = "as many trained turns as there should be"
_ALL = "every token but the first is trained"
_TWICE = "no end or begin token twice in a row"
_VOCABULARY = "every id is in the vocabulary"
_WEIGHTS = "every loss weight is a number from 0 up"
_TURNS = "trained text = the assistant's turns, with their weights (sample)"
_OTHERS = "no text of a user, system or tool turn is trained (sample)"
_PROMPT = "training prompt = tokenizer's inference prompt (sample)"
_WHOLE = "ids = the tokenizer's own of the whole conversation (sample)"
_PLAIN = "special tokens in a message's text stay text (sample)"
_MARKS = "mask = template's own generation marks (sample)"


@dataclass
class AuditCheck:
    """One question and what came of it."""

    name: str
    checked: int = 0
    failures: int = 0
    examples: list[str] = field(default_factory=list)
    """Origins of the first failing rows."""


def audit_examples(
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    train_on: str = "all_assistant",
    sample: int = 500,
    first: int = 0,
    prompt_ids: PromptIds | None = None,
) -> list[AuditCheck]:
    """Check a chunk of encoded conversations, and a sample of them against the tokenizer itself.

    Args:
        examples: Encoded records; at least one.
        tokenizer: The model's tokenizer.
        train_on: Which turns carry loss, as in the recipe.
        sample: Every n-th row of the data set is asked the dear questions, besides the first 64.
        first: Number of the chunk's first row in the data set.
        prompt_ids: A conversation's prompt as our own encoder gives it, for rows whose texts hold
            special tokens: the tokenizer itself would read these as more than text. Without it
            such rows are not compared.

    Returns:
        One entry per check, failures counted; the same checks for every chunk of a data set.
    """
    rows = _Rows(examples, _marks_of(tokenizer, len(tokenizer)))
    checks = [
        rows.ask(_TRAINED, np.flatnonzero(rows.trained == 0)),
        rows.ask(_FIRST, rows.run_rows[rows.begins == rows.starts[rows.run_rows]]),
        *(_ask_everything(rows) if train_on == "everything" else _ask_turns(rows, train_on)),
        *rows.ask_tokens(),
    ]
    chosen = rows.sample(sample, first)
    plain = [e for e in chosen if not rows.marks.in_texts(e.record.content)]
    special = [e for e in chosen if rows.marks.in_texts(e.record.content)]
    exact = [e for e in chosen if not e.retokenized]
    whole = [e for e in plain if not e.retokenized]
    if train_on != "everything":
        checks += [
            _ask(_TURNS, exact, lambda e: turns_match(e, tokenizer, rows.marks, train_on)),
            _ask(_OTHERS, chosen, lambda e: not text_leaks(e, tokenizer)),
        ]
    checks.append(
        _ask(_PROMPT, plain, lambda e: prompt_matches(e, stock_prompt(tokenizer), train_on))
    )
    if prompt_ids and special:
        found = _ask(_PROMPT, special, lambda e: prompt_matches(e, prompt_ids, train_on))
        checks[-1:] = merge_checks(checks[-1:], [found])
    checks += [
        _ask(_WHOLE, whole, lambda e: whole_matches(e, tokenizer)),
        _ask(_PLAIN, special, lambda e: specials_match(e, tokenizer, rows.marks)),
    ]
    if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
        marked = [e for e in whole if train_on != "everything" and not _states_weights(e)]
        checks.append(_ask(_MARKS, marked, lambda e: marks_match(e, tokenizer)))
    return checks


def audit_pairs(
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    sample: int = 500,
    first: int = 0,
    prompt_ids: PromptIds | None = None,
) -> list[AuditCheck]:
    """Check a chunk of encoded preference pairs: trees of prompt, chosen and rejected.

    Arguments and result are as in ``audit_examples``.
    """
    rows = _Rows(examples, _marks_of(tokenizer, len(tokenizer)))
    parts: Array = np.array([e.lengths for e in examples], dtype=np.int64)  # [rows, 3]
    ends = rows.starts[:, None] + parts.cumsum(axis=1)
    # Nothing but the two answers whole: one run that begins where the prompt ends.
    whole = (rows.runs == 1) & (rows.trained == rows.lengths - parts[:, 0])
    begins: Array = np.zeros(len(examples), dtype=np.int64)
    begins[rows.run_rows] = rows.begins
    open_ends = np.flatnonzero(~rows.is_special(ends[:, 1:] - 1).all(axis=1))
    wrong = np.flatnonzero(~whole | (begins != ends[:, 0]))
    checks = [
        rows.ask("prompt untrained, both answers trained", wrong),
        rows.ask("each answer ends with its end token", open_ends),
        *rows.ask_tokens(),
    ]
    chosen = rows.sample(sample, first)
    checks.append(
        _ask(
            "each answer's text is the row's (sample)",
            chosen,
            lambda e: answers_match(e, tokenizer, rows.marks),
        )
    )
    return [*checks, _ask_prompts(chosen, tokenizer, rows.marks, prompt_ids)]


def audit_prompts(
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    sample: int = 500,
    first: int = 0,
    prompt_ids: PromptIds | None = None,
) -> list[AuditCheck]:
    """Check a chunk of prompts; arguments and result are as in ``audit_examples``."""
    rows = _Rows(examples, _marks_of(tokenizer, len(tokenizer)))
    return [
        rows.ask("no token of a prompt is trained", rows.run_rows),
        *rows.ask_tokens(),
        _ask_prompts(rows.sample(sample, first), tokenizer, rows.marks, prompt_ids),
    ]


def audit_text(examples: Sequence[Example], tokenizer: Any) -> list[AuditCheck]:
    """Check blocks of plain text.

    Args:
        examples: Blocks; at least one.
        tokenizer: The model's tokenizer.

    Returns:
        One entry per check, failures counted.
    """
    rows = _Rows(examples, _marks_of(tokenizer, len(tokenizer)))
    wrong = np.flatnonzero((rows.runs != 1) | (rows.trained != rows.lengths - 1))
    begun = rows.run_rows[rows.begins == rows.starts[rows.run_rows]]
    return [
        rows.ask("every token but a block's first is trained", np.append(wrong, begun)),
        rows.ask(_VOCABULARY, rows.find_unknown()),
    ]


def merge_checks(one: Sequence[AuditCheck], other: Sequence[AuditCheck]) -> list[AuditCheck]:
    """Add up the checks of two chunks, the earlier one first.

    Returns:
        One entry per name; the first failing rows stay.
    """
    merged = {check.name: check for check in one}
    for check in other:
        before = merged.get(check.name, AuditCheck(check.name))
        merged[check.name] = AuditCheck(
            check.name,
            before.checked + check.checked,
            before.failures + check.failures,
            [*before.examples, *check.examples][:_SHOWN],
        )
    return list(merged.values())


def describe_audit(checks: Iterable[AuditCheck]) -> list[str]:
    """Write every check as one line: its name, how many rows were asked, and the first failures."""
    lines = []
    for check in checks:
        places = f": {', '.join(check.examples)}" if check.failures else ""
        fails = f"{check.failures:,} FAIL{places}" if check.failures else "all pass"
        found = f"{check.checked:,} asked, {fails}" if check.checked else "no row to ask"
        lines.append(f"mask audit: {check.name}: {found}")
    return lines


def check_audit(checks: Sequence[AuditCheck]) -> None:
    """Stop where a check failed, after saying what came of each.

    Raises:
        DataError: Names the first failed check, the number of rows and the first ones.
    """
    failed = [check for check in checks if check.failures]
    if not failed:
        return
    for line in describe_audit(checks):
        say(line)
    worst = failed[0]
    others = f"; {len(failed) - 1} other checks fail too" if len(failed) > 1 else ""
    raise DataError(
        f"mask audit: {worst.failures} of {worst.checked} rows fail “{worst.name}”, the first at "
        f"{', '.join(worst.examples)}{others}",
        hint="nothing is trained on these data; the template or the tokenizer is the likely cause",
    )


class _Rows:
    """The tokens of a chunk end to end, with what is asked of all of them at once.

    What is looked at are the places where a run of trained tokens begins or ends.

    Args:
        examples: The rows.
        marks: Of the tokenizer.
    """

    def __init__(self, examples: Sequence[Example], marks: Marks) -> None:
        self.examples = examples
        self.marks = marks
        self.lengths: Array = np.array([len(e.token_ids) for e in examples], dtype=np.int64)
        self.starts = self.lengths.cumsum() - self.lengths
        self.ids: Array = np.concatenate([e.token_ids for e in examples])
        self.weights: Array = np.concatenate([e.weights for e in examples])
        trained = self.weights != 0
        filled = self.lengths > 0
        firsts, lasts = self.starts[filled], (self.starts + self.lengths - 1)[filled]
        changes = np.flatnonzero(trained[1:] != trained[:-1])
        begins = np.concatenate([changes[~trained[changes]] + 1, firsts[trained[firsts]]])
        ends = np.concatenate([changes[trained[changes]], lasts[trained[lasts]]])
        self.begins, self.ends = np.unique(begins), np.unique(ends)
        """[runs] first and last token of each run of trained tokens; none goes across rows."""
        self.run_rows = self.row_of(self.begins)
        self.runs: Array = np.bincount(self.run_rows, minlength=len(examples))
        """[rows] runs of trained tokens."""
        sizes = self.ends - self.begins + 1
        self.trained: Array = np.bincount(self.run_rows, sizes, minlength=len(examples))
        """[rows] trained tokens."""

    def row_of(self, places: Array) -> Array:
        """Rows in which tokens lie."""
        return np.asarray(np.searchsorted(self.starts, places, side="right")) - 1

    def is_special(self, places: Array) -> Array:
        """Whether tokens at some places are special."""
        ids = self.ids[places]
        known = (ids >= 0) & (ids < self.marks.size)
        return known & self.marks.lookup[np.where(known, ids, 0)]

    def ask(self, name: str, failing: Array) -> AuditCheck:
        """Make a check of the numbers of the failing rows; one may be there several times."""
        rows = np.unique(failing).tolist()
        places = [str(self.examples[row].record.origin) for row in rows[:_SHOWN]]
        return AuditCheck(name, len(self.examples), len(rows), places)

    def ask_tokens(self) -> list[AuditCheck]:
        """Ask what holds of every token of every kind of data."""
        twice = np.flatnonzero(self.ids[1:] == self.ids[:-1])
        twice = twice[self.is_special(twice)]
        # A row may begin with the token that the row before ends with.
        rows = self.row_of(twice)
        within = rows == self.row_of(twice + 1)
        fine = len(self.weights) == 0 or (self.weights.min() >= 0 and self.weights.max() < np.inf)
        wrong = () if fine else np.flatnonzero(~((self.weights >= 0) & (self.weights < np.inf)))
        return [
            self.ask(_TWICE, rows[within]),
            self.ask(_VOCABULARY, self.find_unknown()),
            self.ask(_WEIGHTS, self.row_of(np.asarray(wrong, dtype=np.int64))),
        ]

    def find_unknown(self) -> Array:
        """Find rows with an id that the model does not know."""
        if not len(self.ids) or 0 <= self.ids.min() <= self.ids.max() < self.marks.size:
            return np.zeros(0, dtype=np.int64)
        return self.row_of(np.flatnonzero((self.ids < 0) | (self.ids >= self.marks.size)))

    def sample(self, every: int, first: int) -> list[Example]:
        """Choose the rows for the dear questions, among those whose ids can be read at all."""
        strange = set(self.find_unknown().tolist())
        return [
            example
            for row, example in enumerate(self.examples)
            if (row + first < _ALWAYS_SAMPLED or (row + first) % every == 0) and row not in strange
        ]


@lru_cache(maxsize=2)
def _marks_of(tokenizer: Any, size: int) -> Marks:
    """What a tokenizer takes for more than text; by its size, for tokens may be added to it."""
    return Marks(tokenizer, size)


def _ask_turns(rows: _Rows, train_on: str) -> list[AuditCheck]:
    open_ends = rows.run_rows[~rows.is_special(rows.ends)]
    turns = [trained_turns(example, train_on) for example in rows.examples]
    wanted: Array = np.array([len(found) for found in turns])
    different = []
    for row in np.flatnonzero(wanted != rows.runs).tolist():
        # Turns in a row need no untrained header between them.
        joined = sum(b == a + 1 for a, b in pairwise(turns[row]))
        if not wanted[row] - joined <= rows.runs[row] <= wanted[row]:
            different.append(row)
    return [rows.ask(_ENDS, open_ends), rows.ask(_COUNT, np.array(different, dtype=np.int64))]


def _ask_everything(rows: _Rows) -> list[AuditCheck]:
    short = np.flatnonzero(rows.trained != rows.lengths - 1).tolist()
    # A turn that the row itself leaves out is left out.
    short = [row for row in short if not _states_weights(rows.examples[row])]
    return [rows.ask(_ALL, np.array(short, dtype=np.int64))]


def _states_weights(example: Example) -> bool:
    content: Any = example.record.content
    return any("loss_weight" in message for message in content.messages)


def _ask(name: str, examples: Iterable[Example], good: Callable[[Example], bool]) -> AuditCheck:
    check = AuditCheck(name)
    for example in examples:
        check.checked += 1
        if not good(example):
            check.failures += 1
            if len(check.examples) < _SHOWN:
                check.examples.append(str(example.record.origin))
    return check


def _ask_prompts(
    examples: Sequence[Example], tokenizer: Any, marks: Marks, prompt_ids: PromptIds | None
) -> AuditCheck:
    """Compare the first segment of each example with the prompt of inference."""
    stock = stock_prompt(tokenizer)
    asked = [(e, marks.in_texts(e.record.content)) for e in examples]
    ways = {id(e): prompt_ids if special else stock for e, special in asked}

    def matches(example: Example) -> bool:
        way = ways[id(example)]
        assert way
        prompt = example.token_ids[: example.lengths[0]]
        return prompt.tolist() == list(way(example.record.content))

    return _ask(_PROMPT, [e for e in examples if ways[id(e)]], matches)
