"""The rows that are not used, as ``rejects.jsonl`` keeps them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from posttrain.errors import DataError
from posttrain.reports.formatting import to_one_line
from posttrain.reports.pages import write_page

_MOST_CHARACTERS = 4000


@dataclass(frozen=True)
class RejectedRow:
    """A row that is not used, and why."""

    origin: str
    """``file:line`` of the row."""
    reason: str
    detail: str
    row: str
    """As JSON, cut where it is very long; empty where nothing could be read."""

    @property
    def header(self) -> str:
        """Where it was read and why it is not used, on one line."""
        detail = to_one_line(self.detail, 300)
        return f"{self.origin}: {self.reason}" + (f" ({detail})" if detail else "")


def collect_rejects(
    path: Path, first: int = 0, count: int = 1
) -> tuple[list[RejectedRow], Counter[str]]:
    """Read some rows of a ``rejects.jsonl``, and count all reasons.

    Args:
        path: The file; one that is not there has no rows.
        first: First row to keep, from 0.
        count: How many to keep.

    Returns:
        The rows, and reason -> number of rows in the whole file.
    """
    kept: list[RejectedRow] = []
    reasons: Counter[str] = Counter()
    for number, reject in enumerate(_read(path)):
        reasons[reject["reason"]] += 1
        if first <= number < first + count:
            kept.append(_view(reject))
    return kept, reasons


def collect_by_reason(path: Path, count: int) -> dict[str, list[RejectedRow]]:
    """Read the first rows of each reason, at most ``count`` of each, in the order of reasons."""
    found: dict[str, list[RejectedRow]] = {}
    for reject in _read(path):
        rows = found.setdefault(reject["reason"], [])
        if len(rows) < count:
            rows.append(_view(reject))
    return found


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{path}:{number}: not valid JSON", hint="the file is damaged"
                ) from error


def _view(reject: dict[str, Any]) -> RejectedRow:
    row = reject.get("row")
    shown = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, indent=1)
    if len(shown) > _MOST_CHARACTERS:
        shown = f"{shown[:_MOST_CHARACTERS]}… ({len(shown):,} characters)"
    return RejectedRow(
        f"{reject['file']}:{reject['line']}",
        str(reject["reason"]),
        str(reject.get("detail") or ""),
        "" if row is None else shown,
    )


def render_reject(reject: RejectedRow) -> Text:
    """Make a rejected row readable in a terminal or a pipe."""
    shown = Text(reject.header, "bold")
    if reject.row:
        shown.append(f"\n{to_one_line(reject.row, _MOST_CHARACTERS)}", "not bold")
    return shown


def build_rejects_page(rejects: Sequence[RejectedRow], reasons: dict[str, int], out: Path) -> Path:
    """Write rejected rows as one self-contained HTML page that can be searched.

    The search is also taken from the address: ``page.html#q=word&reason=too long``.

    Args:
        rejects: To show, from top to bottom.
        reasons: Reason -> number of rows, also of those that are not shown.
        out: File to write.

    Returns:
        ``out``.

    Raises:
        PosttrainError: The place cannot be written.
    """
    values = {"rejects": rejects, "reasons": reasons}
    return write_page(out, "rejects.html.jinja", values, script="inspect.js.jinja")
