"""What transformers hands to an attention function, read as a packed batch needs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posttrain.layout import NO_PARENT, SegmentTable


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
    """Distance from which the tokens of a local layer do not see each other, or None.

    A token's position goes on from the parent's end, and so does the distance.
    """
    window: int | None = kwargs.get("sliding_window")
    if window is None:
        return None
    longest = table.plan("longest", lambda: _longest_path(table))
    return window if window < longest else None


def _longest_path(table: SegmentTable) -> int:
    return max(map(sum, zip(path_starts(table), table.lengths, strict=True)))


def path_starts(table: SegmentTable) -> list[int]:
    """Position of each segment's first token: how many tokens its ancestors have."""
    starts: list[int] = []
    for parent in table.parents:
        starts.append(0 if parent == NO_PARENT else starts[parent] + table.lengths[parent])
    return starts


def scale_of(query: Tensor, kwargs: dict[str, Any]) -> float:
    """What scores are multiplied by."""
    return kwargs.get("scaling") or query.shape[-1] ** -0.5


def softcap_of(kwargs: dict[str, Any]) -> float | None:
    """Bound to which a model such as Gemma 2 bends its scores, or None."""
    return kwargs.get("softcap") or None


def dropout_of(module: torch.nn.Module, kwargs: dict[str, Any]) -> float:
    """Share of attention weights to drop now."""
    return kwargs.get("dropout", 0.0) if module.training else 0.0


def align(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring all three to one number format: autocast's, where it is on.

    Kernels that autocast does not know would get what norms and rotations have widened.
    """
    device = query.device.type
    cast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if cast else value.dtype
    return query.to(dtype), key.to(dtype), value.to(dtype)
