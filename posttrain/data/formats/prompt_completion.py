"""``prompt`` and ``completion``: texts, or lists of messages; a prompt may be rendered ChatML."""

from __future__ import annotations

from posttrain.data.formats.chatml import START, parse_prompt, strip_answer
from posttrain.data.formats.fields import other_texts, read_text
from posttrain.data.formats.messages import convert_messages
from posttrain.data.records import Chat, Row, RowError

_USED = ("prompt", "completion", "system", "tools")


def convert_prompt_completion(row: Row) -> Chat:
    """Convert a row.

    Raises:
        RowError: A field is missing or of another shape, or only one of the two is a list.
    """
    keys = other_texts(row, _USED)
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) != isinstance(completion, list):
        raise RowError("`prompt` and `completion` are of different shapes")
    if isinstance(prompt, list) and isinstance(completion, list):
        chat = convert_messages({"messages": [*prompt, *completion], "tools": row.get("tools")})
        return Chat(chat.messages, chat.tools, keys=keys)
    text, answer = read_text(row, "prompt"), read_text(row, "completion")
    if text.lstrip().startswith(START):
        turn = {"role": "assistant", "content": strip_answer(answer)}
        return Chat((*parse_prompt(text), turn), keys=keys)
    system = read_text(row, "system", required=False)
    head = ({"role": "system", "content": system},) if system else ()
    question = {"role": "user", "content": text}
    return Chat((*head, question, {"role": "assistant", "content": answer}), keys=keys)
