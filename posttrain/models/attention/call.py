"""What transformers hands to an attention function, read as a packed batch needs it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from posttrain.layout import SegmentTable


def segment_table(kwargs: dict[str, Any]) -> SegmentTable:
    """Take the batch's segments out of a call.

    Raises:
        ValueError: The call is not of a packed batch.
    """
    table = kwargs.get("segments")
    if not isinstance(table, SegmentTable):
        raise ValueError("packed attention was called without a segment table")
    return table


def window_of(table: SegmentTable, kwargs: dict[str, Any]) -> int | None:
    """Distance from which tokens of an encoder's local layer do not see each other."""
    # Causal models with windows are refused by ``check_packable``.
    return None if table.causal else kwargs.get("sliding_window")


def scale_of(query: Tensor, kwargs: dict[str, Any]) -> float:
    """What scores are multiplied by."""
    return kwargs.get("scaling") or query.shape[-1] ** -0.5
