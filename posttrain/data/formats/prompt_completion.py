"""``prompt`` and ``completion``: texts, or lists of messages; a prompt may be rendered ChatML."""

from __future__ import annotations

from posttrain.data.formats.chatml import START, strip_answer
from posttrain.data.formats.fields import other_fields, read_reference, read_text
from posttrain.data.formats.messages import read_row_tools, read_turns
from posttrain.data.formats.prompt import read_prompt
from posttrain.data.records import Chat, Message, Row, RowError

_USED = frozenset(("prompt", "completion", "system", "tools", "functions", "reference"))


def convert_prompt_completion(row: Row) -> Chat:
    """Convert a row; a completion of several messages goes on after the prompt's.

    Raises:
        RowError: A field is missing or of another shape.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) != isinstance(completion, list):
        raise RowError("`prompt` and `completion` are of different shapes")
    head = read_prompt(row)
    answer: tuple[Message, ...]
    if isinstance(completion, list):
        answer = read_turns({"completion": completion}, "completion")
    else:
        text = read_text(row, "completion")
        assert isinstance(prompt, str)
        rendered = prompt.lstrip().startswith(START)
        answer = ({"role": "assistant", "content": strip_answer(text) if rendered else text},)
    return Chat(
        (*head, *answer), read_row_tools(row), read_reference(row), other_fields(row, _USED)
    )
