"""Rows of metrics.jsonl, to be compared between two runs of the same steps."""

from collections.abc import Iterable
from typing import Any

TIMES = {
    "seconds",
    "step_seconds",
    "tokens_per_second",
    "trained_tokens_per_second",
    "examples_per_second",
    "mfu",
    "memory_bytes",
}
"""What differs from run to run."""


def drop_times(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep what two runs of the same steps must share."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
