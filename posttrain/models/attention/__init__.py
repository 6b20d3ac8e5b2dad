"""Attention over a packed batch, registered with transformers under names of our own.

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
from posttrain.models.attention.slots import attend_slots

WRITING = "posttrain_slots"
"""What transformers knows the attention as that writes completions; no batch is trained with it."""
_FUNCTIONS = {
    "posttrain_varlen_3": attend_flash_3,
    "posttrain_varlen_2": attend_flash_2,
    "posttrain_flex": attend_flex,
    "posttrain_groups": attend_groups,
    "posttrain_eager": attend_dense,
    "posttrain_sdpa": attend_groups,
    WRITING: attend_slots,
}
# transformers looks for `flash` and `sdpa` within a name, and then for what its own code needs: it
# would import packages for the first, and refuse the second to Gemma 2.
_NAMES = {
    "flash_attention_3": "posttrain_varlen_3",
    "flash_attention_2": "posttrain_varlen_2",
    "flex": "posttrain_flex",
    "sdpa": "posttrain_groups",
    "eager": "posttrain_eager",
}
BACK_ENDS = tuple(_NAMES)
"""As ``model.attention`` calls them, the fastest on a GPU first."""


def registered_name(back_end: str) -> str:
    """What transformers knows a back end as."""
    return _NAMES[back_end]


def register_attention() -> None:
    """Make the back ends known to transformers; may be called again."""
    for name, function in _FUNCTIONS.items():
        AttentionInterface.register(name, function)
        # The segment table says who sees whom; a mask of transformers' own must not be built.
        AttentionMaskInterface.register(name, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None
