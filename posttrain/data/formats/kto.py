"""Labelled answers: a conversation, or ``prompt`` and ``completion``, with ``label``.

The label is true (good) or false (bad). As conversations to imitate, only the good ones can be
used; each bad one is a reject with its reason.
"""

from __future__ import annotations

from dataclasses import replace

from posttrain.data.formats.fields import describe
from posttrain.data.formats.messages import convert_messages
from posttrain.data.formats.prompt_completion import convert_prompt_completion
from posttrain.data.formats.sharegpt import convert_sharegpt
from posttrain.data.records import LABELLED_BAD, Chat, Row, RowError

_LABELS = {True: True, False: False, "true": True, "false": False, "True": True, "False": False}
CARRIERS = {
    "messages": convert_messages,
    "conversations": convert_sharegpt,
    "conversation": convert_sharegpt,
    "completion": convert_prompt_completion,
}
"""Field that holds the labelled answer -> how such a row is read."""


def read_label(row: Row) -> bool | None:
    """Return a row's label, which a table holds as text; None where it is none."""
    label = row.get("label")
    return _LABELS.get(label) if isinstance(label, bool | str) else None


def convert_kto(row: Row) -> Chat:
    """Convert a row with a good answer.

    Raises:
        RowError: The answer is labelled as bad, or the conversation cannot be read.
    """
    label = read_label(row)
    if label is None:
        raise RowError("`label` is not true or false", describe(row.get("label")))
    carrier = next((name for name in CARRIERS if name in row), "messages")
    chat = CARRIERS[carrier](row)
    if not label:
        raise RowError(LABELLED_BAD)
    return replace(chat, keys={**chat.keys, "label": "true"})
