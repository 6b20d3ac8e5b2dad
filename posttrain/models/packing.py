"""Which architectures take many texts in one call, and why the others do not.

Their code decides: a packed batch is right where all that joins two tokens goes through the
attention that transformers lets us exchange, and through what it is handed.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

# Handed to attention by some architectures, and beyond what our back ends compute.
_UNKNOWN_INPUTS = {
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "position_bias": "a position bias",
    "indices": "chosen tokens",
    "block_indices": "chosen blocks",
}
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
# Encoders whose attention asks our back end and passes the segments on, and whose positions count
# from 0. Tests compare packed with one by one for each.
_PACKABLE_ENCODERS = ("bert", "modernbert")


def is_encoder(config: Any) -> bool:
    """Whether transformers has the architecture as an encoder with a masked language head."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def find_packing_obstacle(config: Any) -> str | None:
    """Say why texts cannot lie side by side in one call of a model.

    Args:
        config: The model's transformers config.

    Returns:
        The reason, or None where they can.
    """
    if is_encoder(config):
        known = config.model_type in _PACKABLE_ENCODERS
        return None if known else "its positions or its attention would mix texts"
    text = config.get_text_config()
    model_class = _find_class(config)
    if model_class is None:
        return "its code is not transformers' own"
    layer_types = set(getattr(text, "layer_types", None) or ())
    if foreign := sorted(layer_types - _KNOWN_LAYERS):
        return f"its layers ({', '.join(foreign)}) carry state or cut what they see by place"
    if getattr(model_class, "_is_stateful", False):
        return "its layers carry state from token to token"
    if not getattr(model_class, "_supports_attention_backend", False):
        return "its attention is code of its own"
    if getattr(text, "sliding_window", None) and not model_class._supports_flash_attn:
        return "its attention has windows that it does not tell a back end of"
    # What flash attention is handed is all that it knows, and so it is with ours.
    source = inspect.getsource(sys.modules[model_class.__module__])
    if found := re.search(rf"\b({'|'.join(_UNKNOWN_INPUTS)})=", source):
        return f"its attention has {_UNKNOWN_INPUTS[found[1]]}"
    if "logits_to_keep" not in inspect.signature(model_class.forward).parameters:
        return "its output layer cannot be asked for single tokens"
    return None


def _find_class(config: Any) -> Any:
    """Transformers' own causal model of a config, or None."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if getattr(config, "auto_map", None):
        return None
    found = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return found[0] if isinstance(found, tuple) else found
