"""One question and one answer: ``query``, ``response``; optional ``system`` and ``history``."""

from __future__ import annotations

from posttrain.data.formats.alpaca import convert_alpaca
from posttrain.data.formats.fields import other_texts, read_text
from posttrain.data.records import Chat, Row

_USED = ("query", "response", "system", "history")


def convert_query_response(row: Row) -> Chat:
    """Convert a row; ``history`` is a list of [user, assistant] pairs before the query.

    Raises:
        RowError: A field is missing or of the wrong type.
    """
    renamed = {
        "instruction": read_text(row, "query"),
        "output": read_text(row, "response"),
        "system": row.get("system"),
        "history": row.get("history"),
    }
    return Chat(convert_alpaca(renamed).messages, keys=other_texts(row, _USED))
