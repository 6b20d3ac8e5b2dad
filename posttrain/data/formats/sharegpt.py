"""ShareGPT: ``conversations`` = [{from, value}], optional ``system`` and ``tools`` (JSON text).

A ``function_call`` turn is JSON: one call or a list of them. The first turn may be the assistant's.
"""

from __future__ import annotations

from posttrain.data.formats.fields import other_fields, read_reference
from posttrain.data.formats.messages import read_row_tools, read_turns
from posttrain.data.records import Chat, Row

_USED = frozenset(("conversations", "conversation", "system", "tools", "functions", "reference"))


def convert_sharegpt(row: Row) -> Chat:
    """Convert a row; its turns may as well be ``{role, content}``.

    Raises:
        RowError: A turn has an unknown role or another shape, or a call cannot be read.
    """
    name = "conversation" if "conversation" in row else "conversations"
    return Chat(
        read_turns(row, name), read_row_tools(row), read_reference(row), other_fields(row, _USED)
    )
