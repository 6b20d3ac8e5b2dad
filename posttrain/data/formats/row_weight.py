"""How much a whole row is learned: its ``loss_weight``, beside those of its messages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from posttrain.data.formats.fields import describe
from posttrain.data.records import Chat, Content, Row, RowError

FIELD = "loss_weight"


def convert_weighed(convert: Callable[[Row], Content], row: Row) -> Content:
    """Convert a row, and multiply the weights of its assistant turns by its own.

    Args:
        convert: Of the row's format.
        row: The row; in a table a number may be text.

    Raises:
        RowError: As ``convert``; or the weight is no number from 0 up, or one on a pair, which is
            learned as a whole.
    """
    content = convert(row)
    if row.get(FIELD) in (None, ""):
        return content
    weight = _read_weight(row[FIELD])
    if weight == 1:
        return content
    if not isinstance(content, Chat):
        raise RowError("a loss weight on a pair", describe(weight))
    messages = [
        {**m, FIELD: m.get(FIELD, 1) * weight} if m["role"] == "assistant" else m
        for m in content.messages
    ]
    return replace(content, messages=tuple(messages))


def _read_weight(value: object) -> float:
    try:
        weight = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise RowError("a row's loss weight is no number from 0 up", describe(value))
    return weight
