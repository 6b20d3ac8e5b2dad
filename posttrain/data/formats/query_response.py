"""One question and one answer, under the names that data sets give them."""

from __future__ import annotations

from posttrain.data.formats.alpaca import convert_alpaca
from posttrain.data.formats.fields import other_texts, read_text
from posttrain.data.records import Chat, Row

# Without these the question is another one.
_AROUND = frozenset(("choices", "options", "context", "contexts", "passage", "chosen", "tools"))


def convert_query_response(row: Row) -> Chat:
    """Convert ``query`` and ``response``.

    ``system`` and ``history``, a list of [user, assistant] pairs before the query, are optional.

    Raises:
        RowError: A field is missing or of the wrong type.
    """
    return _convert(row, "query", "response")


def convert_question_answer(row: Row) -> Chat:
    """Convert ``question`` and ``answer``, the whole answer as it stands.

    Raises:
        RowError: As ``convert_query_response``.
    """
    return _convert(row, "question", "answer")


def convert_input_output(row: Row) -> Chat:
    """Convert ``input`` and ``output``.

    Raises:
        RowError: As ``convert_query_response``.
    """
    return _convert(row, "input", "output")


def is_bare_answer(row: Row) -> bool:
    """Whether ``question`` and ``answer`` say all, with no final answer behind ``####``."""
    return "####" not in str(row["answer"]) and not _AROUND & row.keys()


def is_bare_output(row: Row) -> bool:
    """Whether ``input`` and ``output`` say all, without an instruction."""
    return not (_AROUND | {"instruction", "prompt", "question", "query"}) & row.keys()


def _convert(row: Row, question: str, answer: str) -> Chat:
    renamed = {
        "instruction": read_text(row, question),
        "output": read_text(row, answer),
        "system": row.get("system"),
        "history": row.get("history"),
    }
    used = (question, answer, "system", "history")
    return Chat(convert_alpaca(renamed).messages, keys=other_texts(row, used))
