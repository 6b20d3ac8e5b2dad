"""Multiple-choice items: the rows of ``sample-data mcq``, as the writing of items is learned.

The prompt and the answer are those of ``generate-items`` and ``/v1/mcq``, so that a tuned model is
asked as it was taught.
"""

from __future__ import annotations

from posttrain.data.formats.fields import other_fields
from posttrain.data.records import Chat, Row, RowError
from posttrain.items import build_item_messages, format_item, read_item_row

_TEXTS = ("standard", "standard_description", "grade", "difficulty", "stem")
_USED = frozenset(("options", "answer", "explanation"))


def convert_mcq(row: Row) -> Chat:
    """Convert ``{standard, standard_description, grade, difficulty, stem, options, ...}``.

    The question's text stays a key: an item of an evaluation set can be found by it.

    Raises:
        RowError: A field is missing, or the item could not be put before a pupil.
    """
    for name in _TEXTS:
        if not isinstance(row.get(name, ""), str):
            raise RowError("no usable item", f"`{name}` is not text")
    try:
        request, item = read_item_row(row)
    except ValueError as error:
        raise RowError("no usable item", str(error)) from None
    answer = {"role": "assistant", "content": format_item(item)}
    return Chat((*build_item_messages(request), answer), keys=other_fields(row, _USED))
