"""Labelled answers: ``messages`` or ``conversations`` with ``label`` true (good) or false (bad).

As conversations to imitate, only the good ones can be used.
"""

from __future__ import annotations

from posttrain.data.formats.messages import convert_messages
from posttrain.data.formats.sharegpt import convert_sharegpt
from posttrain.data.records import Chat, Row, RowError


def convert_kto(row: Row) -> Chat:
    """Convert a row with a good answer.

    Raises:
        RowError: The answer is labelled as bad, or the conversation cannot be read.
    """
    label = row.get("label")
    if label not in (True, False):
        raise RowError("`label` is not true or false", str(label))
    if not label:
        raise RowError("the answer is labelled as bad")
    return convert_messages(row) if "messages" in row else convert_sharegpt(row)
