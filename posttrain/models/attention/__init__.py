"""Attention over a packed batch, registered with transformers as ``posttrain_<back end>``.

Every back end computes the same thing: a token attends to its segment's ancestors whole and to its
own segment up to itself. In an encoder's batch (``SegmentTable.causal`` is False) it attends to all
of its segment, in ModernBERT's local layers to all within a window.
"""

from __future__ import annotations

from typing import Any

from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from posttrain.errors import ConfigError
from posttrain.models.attention.dense import attend_dense
from posttrain.models.attention.flex import attend_flex
from posttrain.models.attention.groups import attend_groups

_FUNCTIONS = {"sdpa": attend_groups, "flex": attend_flex, "eager": attend_dense}
BACK_ENDS = tuple(_FUNCTIONS)


def register_attention() -> None:
    """Make the back ends known to transformers; may be called again."""
    for name in BACK_ENDS:
        AttentionInterface.register(f"posttrain_{name}", _FUNCTIONS[name])
        # The segment table says who sees whom; a mask of transformers' own must not be built.
        AttentionMaskInterface.register(f"posttrain_{name}", _no_mask)


def choose_attention(wanted: str, device: str) -> tuple[str, str]:
    """Settle ``auto``.

    Args:
        wanted: ``auto`` or a back end.
        device: ``cpu`` or ``cuda``.

    Returns:
        The back end and the reason.

    Raises:
        ConfigError: ``flex`` on a CPU, where it has no backward pass.
    """
    if wanted == "flex" and device == "cpu":
        raise ConfigError(
            "attention: flex has no backward pass on a CPU", hint="use auto, sdpa or eager"
        )
    if wanted != "auto":
        return wanted, "as the recipe says"
    return "sdpa", "torch's fused kernel over groups of segments works on every device"


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None
