"""GSM8K: ``question``, and ``answer`` = worked steps, then ``#### final answer``.

Source: Cobbe et al. 2021, arXiv:2110.14168. Its answers carry calculator notes such as
``<<48/2=24>>``, made for a model with a calculator; they are left out, the text reads on.
"""

from __future__ import annotations

import re

from posttrain.data.formats.fields import other_fields, read_text
from posttrain.data.records import Chat, Row, RowError

CALCULATOR = re.compile(r"<<[^<>]*>>")
"""A calculator note inside an answer."""
_USED = frozenset(("question", "answer"))


def convert_gsm8k(row: Row) -> Chat:
    """Convert a row; the final answer becomes the reference, apart from the steps before it.

    Raises:
        RowError: A field is missing or the answer has no ``####`` line.
    """
    question, answer = read_text(row, "question"), read_text(row, "answer")
    answer = (CALCULATOR.sub("", answer) if "<<" in answer else answer).strip()
    _, marker, final = answer.rpartition("####")
    if not marker or not final.strip():
        raise RowError("no final answer", "`answer` has no `#### ...` line")
    return Chat(
        messages=(
            {"role": "user", "content": question.strip()},
            {"role": "assistant", "content": answer},
        ),
        reference=final.strip(),
        keys=other_fields(row, _USED),
    )
