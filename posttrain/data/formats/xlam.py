"""xLAM function calling: ``query``, and ``tools`` and ``answers`` as JSON text; one turn each."""

from __future__ import annotations

from posttrain.data.formats.calls import read_calls
from posttrain.data.formats.fields import other_fields, read_text
from posttrain.data.formats.tools import check_calls, read_tools
from posttrain.data.records import Chat, Message, Row, RowError

_USED = frozenset(("query", "tools", "answers"))


def convert_xlam(row: Row) -> Chat:
    """Convert a row: the question, and one assistant turn with all calls.

    Raises:
        RowError: A field is missing or cannot be read, or a call does not fit its declaration.
    """
    query, tools = read_text(row, "query"), read_tools(row.get("tools"))
    answers = row.get("answers")
    if not answers:
        raise RowError("no `answers`")
    messages: tuple[Message, ...] = (
        {"role": "user", "content": query},
        {"role": "assistant", "content": "", "tool_calls": read_calls(answers, "answers")},
    )
    check_calls(messages, tools)
    return Chat(messages, tools, keys=other_fields(row, _USED))
