"""One question and one answer, under the names that data sets give them."""

from __future__ import annotations

from collections.abc import Callable

from posttrain.data.formats.alpaca import convert_alpaca
from posttrain.data.formats.fields import other_fields, read_reference, read_text, scalar_text
from posttrain.data.records import Chat, Row

# Without these the question is another one.
_AROUND = frozenset(("choices", "options", "context", "contexts", "passage", "chosen", "tools"))


def build_converter(question: str, answer: str) -> Callable[[Row], Chat]:
    """Make the converter of rows that hold one question and one answer.

    ``system`` and ``history``, a list of [user, assistant] pairs before the question, are optional.

    Args:
        question: The field of the question.
        answer: The field of the answer, learned as it stands.

    Returns:
        The converter; it raises RowError where a field is missing or of the wrong type.
    """
    used = frozenset((question, answer, "system", "history", "reference"))

    def convert(row: Row) -> Chat:
        renamed = {
            "instruction": read_text(row, question),
            "output": read_text(row, answer),
            "system": row.get("system"),
            "history": row.get("history"),
        }
        messages = convert_alpaca(renamed).messages
        return Chat(messages, (), read_reference(row), other_fields(row, used))

    return convert


convert_query_response = build_converter("query", "response")
convert_question_answer = build_converter("question", "answer")
convert_input_output = build_converter("input", "output")
convert_prompt_response = build_converter("prompt", "response")


def is_bare_answer(row: Row) -> bool:
    """Whether ``question`` and ``answer`` say all, with no final answer behind ``####``."""
    return "####" not in scalar_text(row["answer"]) and not _AROUND & row.keys()


def is_bare_output(row: Row) -> bool:
    """Whether ``input`` and ``output`` say all, without an instruction."""
    return not (_AROUND | {"instruction", "prompt", "question", "query"}) & row.keys()
