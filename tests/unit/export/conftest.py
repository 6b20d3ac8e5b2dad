"""A small adapter on the built-in model, as training would have saved it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.config.model import LoraConfig, ModelConfig
from posttrain.models.load import load_model, load_tokenizer
from posttrain.models.lora import add_lora


def save_adapter(folder: Path, *, size: float) -> Path:
    """Write an adapter whose update has random values of about this size."""
    torch.manual_seed(0)
    config = ModelConfig(path="tiny")
    model = add_lora(load_model(config, attention="sdpa", dtype="float32"), LoraConfig(rank=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=size)
    model.save_pretrained(folder)
    load_tokenizer(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: Any, cache_dir: Path) -> Path:
    """An adapter that changes much."""
    return save_adapter(tmp_path_factory.mktemp("adapters") / "strong", size=0.02)


@pytest.fixture(scope="session")
def weak_adapter(tmp_path_factory: Any, cache_dir: Path) -> Path:
    """An adapter whose update is smaller than the steps of bf16."""
    return save_adapter(tmp_path_factory.mktemp("adapters") / "weak", size=1e-6)
