"""Multiple-choice items: what is asked for, what is written, and the one prompt and text for both.

Training rows, ``generate-items`` and ``/v1/mcq`` all speak to the model through
``build_item_messages`` and ``format_item``, so that a tuned model is asked as it was taught.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEYS = ("A", "B", "C", "D")
_SHAPE = (
    '{"question": "...", "options": {"A": "...", "B": "...", "C": "...", "D": "..."}, '
    '"answer": "...", "explanation": "..."}'
)
_VISIBLE = "LNPS"
"""Unicode's general categories of letters, numbers, punctuation and symbols."""


@dataclass(frozen=True)
class ItemRequest:
    """What an item shall be about."""

    grade: str
    """``K`` or ``1`` to ``12``."""
    subject: str = "ela"
    skill_id: str = ""
    """Code of the standard, such as ``CCSS.ELA-LITERACY.L.4.1.A``."""
    skill_text: str = ""
    """The standard in words."""
    difficulty: str = "medium"
    """``easy``, ``medium`` or ``hard``."""
    curriculum: str = "common_core"
    locale: str = "en-US"
    instructions: str = ""
    """Further wishes, in words."""
    type: str = "mcq"
    stimulus: str = ""
    """A passage that the question is about."""


@dataclass(frozen=True)
class Item:
    """A multiple-choice item as a model or a person wrote it."""

    question: str
    options: dict[str, str]
    """Texts by key, in the order of ``KEYS``."""
    answer: str
    """One of ``KEYS``."""
    explanation: str
    stimulus: str = ""
    """The request's passage; not written by the model."""


def build_item_messages(request: ItemRequest) -> list[dict[str, str]]:
    """Ask a model for one item.

    There is no system turn: some models' templates refuse one.

    Args:
        request: What the item shall be about.

    Returns:
        The conversation up to the answer, which is the text that ``format_item`` gives.
    """
    skill = ": ".join(part for part in (request.skill_id, request.skill_text) if part)
    fields = {
        "Grade": request.grade,
        "Subject": request.subject,
        "Skill": skill,
        "Difficulty": request.difficulty,
        "Curriculum": request.curriculum,
        "Locale": request.locale,
        "Instructions": request.instructions,
        "Passage": request.stimulus,
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    content = "\n".join(
        ["Write one multiple-choice item.", *lines, f"Answer with one JSON object: {_SHAPE}"]
    )
    return [{"role": "user", "content": content}]


def format_item(item: Item) -> str:
    """The text in which a model writes an item: one line of JSON, in the order of the shape."""
    return json.dumps(
        {
            "question": item.question,
            "options": {key: item.options[key] for key in KEYS},
            "answer": item.answer,
            "explanation": item.explanation,
        },
        ensure_ascii=False,
    )


def read_item(text: str, *, stimulus: str = "") -> Item:
    """Read an item that a model wrote; the reverse of ``format_item``.

    Args:
        text: JSON, with or without space around it.
        stimulus: The request's passage.

    Returns:
        A valid item.

    Raises:
        ValueError: It is no JSON, has another shape, or is no valid item.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    names = ("question", "options", "answer", "explanation")
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError(f"not an object of {', '.join(names)}")
    item = Item(**value, stimulus=stimulus)
    check_item(item)
    return item


def check_item(item: Item) -> None:
    """Check that an item can be put before a pupil.

    Raises:
        ValueError: A text is blank, the keys are not A to D, two options are the same, or the
            answer is none of them.
    """
    if not isinstance(item.options, dict) or tuple(item.options) != KEYS:
        raise ValueError(f"the options are not {', '.join(KEYS)}")
    texts = {"question": item.question, "explanation": item.explanation}
    texts |= {f"option {key}": text for key, text in item.options.items()}
    for name, text in texts.items():
        if not isinstance(text, str) or is_blank(text):
            raise ValueError(f"the {name} is blank")
    if len({fold_option(text) for text in item.options.values()}) < len(KEYS):
        raise ValueError("two options are the same")
    if item.answer not in KEYS:
        raise ValueError("the answer is none of the keys")


def is_blank(text: str) -> bool:
    """Whether a reader would see nothing."""
    return not any(unicodedata.category(character)[0] in _VISIBLE for character in text)


def fold_option(text: str) -> str:
    """What two options share when they are the same to a reader.

    Capitals and punctuation count: items on spelling differ in nothing else.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_item_row(row: Mapping[str, Any]) -> tuple[ItemRequest, Item]:
    """Read a row of the ``mcq`` sample data.

    Args:
        row: With the fields that ``posttrain.samples.mcq`` lists.

    Returns:
        What was asked for, and the valid item.

    Raises:
        ValueError: A field is missing or the item is not valid.
    """
    try:
        request = ItemRequest(
            grade=row["grade"],
            skill_id=row["standard"],
            skill_text=row["standard_description"],
            difficulty=row["difficulty"],
        )
        options = {option["key"]: option["text"] for option in row["options"]}
        item = Item(row["stem"], options, row["answer"], row["explanation"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"a field is missing or has another shape: {error}") from None
    check_item(item)
    return request, item
