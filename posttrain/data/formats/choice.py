"""Multiple-choice questions to be answered: AGIEval, ARC, or {question, options, answer}.

Evaluation and training read them here, so that a model is taught in the words it is asked in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from posttrain.data.formats.fields import other_fields, scalar_text
from posttrain.data.records import Chat, Row, RowError

LETTERS = "ABCDEFGHIJ"
_STEMS = ("question", "stem")
_OPTIONS = ("options", "choices", "answer_options")
_ANSWERS = ("answerKey", "label", "answer")
PASSAGES = ("passage", "stimulus", "article", "context", "story", "paragraph")
"""Fields that may hold what the question is about."""
# A passage stays a key: its questions can be kept in one split.
_USED = frozenset((*_OPTIONS, "explanation", "other"))


@dataclass(frozen=True)
class Choice:
    """The options of a multiple-choice question."""

    passage: str
    """Empty where there is none."""
    question: str
    options: tuple[str, ...]
    """Without their letters."""
    right: int
    """Which option is right, from 0."""

    @property
    def letters(self) -> str:
        """One letter for each option, whatever labels the file has."""
        return LETTERS[: len(self.options)]

    @property
    def text(self) -> str:
        """Passage, question and lettered options."""
        options = "\n".join(f"{a}. {t}" for a, t in zip(self.letters, self.options, strict=True))
        return "\n\n".join(part for part in (self.passage, f"{self.question}\n{options}") if part)


def convert_choice(row: Row) -> Chat:
    """Convert a row: the question as an evaluation asks it, and the answer by its letter.

    The row's explanation, or AGIEval's ``other.solution``, comes before the answer. The reference
    is the letter; the question stays a key.

    Raises:
        RowError: As ``read_choice``.
    """
    choice = read_choice(row)
    letter = choice.letters[choice.right]
    other = row.get("other")
    explained = row.get("explanation") or (isinstance(other, dict) and other.get("solution"))
    stated = f"Answer: {letter}"
    if isinstance(explained, str) and explained.strip():
        stated = f"{explained.strip()}\n{stated}"
    keys = other_fields(row, _USED)
    return Chat(
        ({"role": "user", "content": choice.text}, {"role": "assistant", "content": stated}),
        reference=letter,
        keys={**keys, "question": choice.question},
    )


def shows_choice(row: Row) -> bool:
    """Whether a row holds a question with options to choose from and says which is right."""
    stem = row.get("question", row.get("stem"))
    inside = isinstance(stem, dict) and isinstance(stem.get("choices"), list)
    options = inside or any(isinstance(row.get(name), list | dict) for name in _OPTIONS)
    return options and any(row.get(name) is not None for name in _ANSWERS)


def read_choice(row: Row) -> Choice:
    """Read a multiple-choice question in any of its shapes.

    Raises:
        RowError: There is no question, there are fewer than 2 or more than 10 options, one is no
            text, the answer names none of them, or there are two passages.
    """
    stem: Any = row.get("question", row.get("stem"))
    listed: Any = None
    if isinstance(stem, dict):  # ARC
        stem, listed = stem.get("stem"), stem.get("choices")
    listed = listed or next((row[name] for name in _OPTIONS if row.get(name)), None)
    if not isinstance(stem, str) or not stem.strip():
        raise RowError("no `question`")
    labels, options = _read_options(listed)
    if not 2 <= len(options) <= len(LETTERS):
        raise RowError(f"{len(options)} options", f"2 to {len(LETTERS)} are needed")
    answer = next((row[name] for name in _ANSWERS if row.get(name) is not None), "")
    right = _find_right(answer, labels, options)
    return Choice(_read_passage(row), stem.strip(), options, right)


def _read_passage(row: Row) -> str:
    found = {name: row[name] for name in PASSAGES if row.get(name)}
    if not all(isinstance(text, str) for text in found.values()):
        raise RowError("the passage is not text")
    texts = {text.strip() for text in found.values()}
    if len(texts) > 1:
        raise RowError("two passages", ", ".join(f"`{name}`" for name in found))
    return texts.pop() if texts else ""


def _read_options(listed: Any) -> tuple[list[str], tuple[str, ...]]:
    """Labels and texts of options in any of their shapes."""
    pairs: list[tuple[str, Any]]
    if isinstance(listed, dict) and isinstance(listed.get("text"), list):  # ARC, by columns
        labels = listed.get("label")
        labels = labels if isinstance(labels, list) else LETTERS
        pairs = list(zip(map(scalar_text, labels), listed["text"], strict=False))
    elif isinstance(listed, dict):
        pairs = list(listed.items())
    elif isinstance(listed, list):
        pairs = []
        for letter, item in zip(LETTERS, listed, strict=False):
            if isinstance(item, dict):
                label = item.get("label", item.get("key", letter))
                pairs.append((scalar_text(label), item.get("text")))
            else:
                pairs.append((letter, _without_label(item, letter)))
    else:
        raise RowError("no `options`")
    if any(not isinstance(text, str) or not text.strip() for _, text in pairs):
        raise RowError("an option is not text")
    if isinstance(listed, list) and len(listed) > len(pairs):
        raise RowError(f"{len(listed)} options", f"at most {len(LETTERS)} are read")
    return [label.strip() for label, _ in pairs], tuple(text.strip() for _, text in pairs)


def _without_label(item: Any, letter: str) -> Any:
    """Take the letter off an option such as "(A)text", as AGIEval writes it."""
    if not isinstance(item, str):
        return item
    marks = (f"({letter})", f"{letter}.", f"{letter})")
    found = next((mark for mark in marks if item.lstrip().startswith(mark)), "")
    return item.lstrip().removeprefix(found)


def _find_right(answer: Any, labels: list[str], options: tuple[str, ...]) -> int:
    """Place of the right option, named by its label, by its place from 0, or by its text."""
    text = scalar_text(answer).strip()
    if isinstance(answer, int) and not isinstance(answer, bool) and text not in labels:
        if 0 <= answer < len(options):
            return answer
        raise RowError("the answer names no option", text[:40])
    bare = text.strip("()").rstrip(".")
    for known, wanted in ((labels, bare), (list(options), text)):
        if known.count(wanted) == 1:
            return known.index(wanted)
    if len(bare) == 1 and bare in LETTERS[: len(options)]:
        return LETTERS.index(bare)
    raise RowError("the answer names no option", text[:40])
