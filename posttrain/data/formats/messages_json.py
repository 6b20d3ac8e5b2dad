"""Conversations whose nested parts are JSON text: ``messages_json``, ``tools_json``.

Arrow wants one type per column, which tool declarations and arguments do not have; text always has.
"""

from __future__ import annotations

from posttrain.data.formats.fields import other_fields, parse_json, read_reference, read_text
from posttrain.data.formats.messages import read_turns
from posttrain.data.formats.tools import read_declared
from posttrain.data.records import Chat, Row

_USED = frozenset(("messages_json", "tools_json", "reference"))


def convert_messages_json(row: Row) -> Chat:
    """Convert a row; inside, it is as ``messages``.

    Raises:
        RowError: Broken JSON, or what ``messages`` refuses.
    """
    turns = parse_json(read_text(row, "messages_json"), "messages_json")
    return Chat(
        read_turns({"messages": turns}, "messages"),
        read_declared(read_text(row, "tools_json", required=False)),
        read_reference(row),
        other_fields(row, _USED),
    )
