r"""MATH: ``problem``, ``solution`` whose last ``\boxed`` holds the final answer.

Source: Hendrycks et al. 2021, arXiv:2103.03874.
"""

from __future__ import annotations

from posttrain.data.formats.fields import other_fields, read_text
from posttrain.data.records import Chat, Row, RowError
from posttrain.grading.answers import find_boxes
from posttrain.grading.normalization import join_thousands, normalize_formula

_USED = frozenset(("problem", "solution", "normalized_answer"))


def convert_math(row: Row) -> Chat:
    """Convert a row; the last balanced box becomes the reference.

    The key ``normalized_answer`` is the reference in the writing in which equal formulas mostly are
    the same text; ``level`` and ``subject`` are keys as they stand.

    Raises:
        RowError: A field is missing, or the solution has no box or an empty one.
    """
    problem, solution = read_text(row, "problem"), read_text(row, "solution")
    boxes = find_boxes(solution)
    if not boxes or not boxes[-1][2]:
        raise RowError(
            "no final answer", "`solution` has no balanced \\boxed{...}, or an empty one"
        )
    reference = boxes[-1][2]
    normalized = normalize_formula(join_thousands(reference)) or reference
    return Chat(
        ({"role": "user", "content": problem}, {"role": "assistant", "content": solution}),
        reference=reference,
        keys={**other_fields(row, _USED), "normalized_answer": normalized},
    )
