"""One pure converter per input format: row -> Chat. Detection looks at rows and says what it saw.

A converter gets one row (a mapping) and returns a Chat or raises RowError with a countable reason.
To add a format: a module here, an entry in CONVERTERS, its fields in REQUIRED_FIELDS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from posttrain.data.formats.alpaca import convert_alpaca
from posttrain.data.formats.gsm8k import convert_gsm8k
from posttrain.data.formats.messages import convert_messages
from posttrain.data.records import Chat, Row
from posttrain.errors import DataError

CONVERTERS: dict[str, Callable[[Row], Chat]] = {
    "messages": convert_messages,
    "gsm8k": convert_gsm8k,
    "alpaca": convert_alpaca,
}
REQUIRED_FIELDS = {
    "messages": ("messages",),
    "gsm8k": ("question", "answer"),
    "alpaca": ("instruction", "output"),
}


def detect_format(rows: Sequence[Row], place: str) -> tuple[str, str]:
    """Find the format of some rows.

    Args:
        rows: A few rows of one file, at least one.
        place: The file, for the error.

    Returns:
        The format's name, and the evidence in words.

    Raises:
        DataError: No format fits most of the rows.
    """
    for name, fields in REQUIRED_FIELDS.items():
        fitting = sum(all(field in row for field in fields) for row in rows)
        if fitting * 2 > len(rows):
            shown = ", ".join(f"`{field}`" for field in fields)
            return name, f"{fitting} of the first {len(rows)} rows have {shown}"
    seen = ", ".join(f"`{field}`" for field in rows[0])
    known = "; ".join(f"{name}: {', '.join(fields)}" for name, fields in REQUIRED_FIELDS.items())
    raise DataError(
        f"{place}: no known format has the fields {seen}",
        hint="map the names with `columns` of the source, as in stages.sft.data.sources.0."
        f"columns='{{instruction: NAME, output: NAME}}' (known formats: {known})",
    )
