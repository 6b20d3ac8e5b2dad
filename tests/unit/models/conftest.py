"""Small random models, made on the spot."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from posttrain.models.attention import register_attention


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """Make a Qwen3 of a few thousand parameters; keywords change its config."""

    def make(**changes: Any) -> Any:
        register_attention()
        settings = {
            "vocab_size": 97,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": 0,
            **changes,
        }
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(Qwen3Config(**settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make
