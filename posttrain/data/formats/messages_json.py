"""Conversations whose nested parts are JSON text: ``messages_json``, ``tools_json``.

Arrow wants one type per column, which tool declarations and arguments do not have; text always has.
"""

from __future__ import annotations

from posttrain.data.formats.fields import other_texts, parse_json, read_text
from posttrain.data.formats.messages import convert_messages
from posttrain.data.records import Chat, Row

_USED = ("messages_json", "tools_json")


def convert_messages_json(row: Row) -> Chat:
    """Convert a row; inside, it is as ``messages``.

    Raises:
        RowError: Broken JSON, or what ``messages`` refuses.
    """
    tools = read_text(row, "tools_json", required=False)
    return convert_messages(
        {
            **other_texts(row, (*_USED, "messages", "tools")),
            "messages": parse_json(read_text(row, "messages_json"), "messages_json"),
            "tools": parse_json(tools, "tools_json") if tools.strip() else [],
        }
    )
