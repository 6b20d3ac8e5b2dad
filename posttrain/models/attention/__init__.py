"""Attention over a packed batch, registered with transformers as ``posttrain_<back end>``.

Every back end computes the same thing: a token attends to its segment's ancestors whole and to its
own segment up to itself. In an encoder's batch (``SegmentTable.causal`` is False) it attends to all
of its segment. In local layers it sees nothing from a distance in positions on.
"""

from __future__ import annotations

from typing import Any

from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from posttrain.models.attention.dense import attend_dense
from posttrain.models.attention.flash import attend_flash_2, attend_flash_3
from posttrain.models.attention.flex import attend_flex
from posttrain.models.attention.groups import attend_groups

_FUNCTIONS = {
    "flash_attention_3": attend_flash_3,
    "flash_attention_2": attend_flash_2,
    "flex": attend_flex,
    "sdpa": attend_groups,
    "eager": attend_dense,
}
BACK_ENDS = tuple(_FUNCTIONS)


def register_attention() -> None:
    """Make the back ends known to transformers; may be called again."""
    for name in BACK_ENDS:
        AttentionInterface.register(f"posttrain_{name}", _FUNCTIONS[name])
        # The segment table says who sees whom; a mask of transformers' own must not be built.
        AttentionMaskInterface.register(f"posttrain_{name}", _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None
