"""Low-rank adapters through peft."""

from __future__ import annotations

from typing import Any

from posttrain.config.model import LoraConfig
from posttrain.errors import ConfigError


def add_lora(model: Any, config: LoraConfig) -> Any:
    """Wrap a model in fresh, trainable adapters; everything else is frozen.

    Args:
        model: A transformers causal language model.
        config: Rank, scale and places.

    Returns:
        The peft model.

    Raises:
        ConfigError: No module has one of the named targets, or the output layer is one.
    """
    import peft

    if "lm_head" in config.targets:
        raise ConfigError(
            "lora.targets: an adapter on lm_head is not supported", hint="leave lm_head out"
        )
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(model, settings)
    except ValueError as error:
        names = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if _is_linear(m)})
        raise ConfigError(
            f"lora.targets: {error}".splitlines()[0],
            hint=f"linear modules of this model: {', '.join(names)}",
        ) from error


def _is_linear(module: Any) -> bool:
    return type(module).__name__ == "Linear"


def count_lora_parameters(model: Any, config: LoraConfig) -> int:
    """Parameters that adapters would add, without building them.

    Args:
        model: The model, possibly on the meta device.
        config: Rank and places.

    Returns:
        Sum over the targeted linear layers of rank * (inputs + outputs).
    """
    head = model.get_output_embeddings()
    total = 0
    for name, module in model.named_modules():
        if not _is_linear(module):
            continue
        wanted = (
            module is not head
            if config.targets == "all-linear"
            else name.rpartition(".")[2] in config.targets
        )
        if wanted:
            total += config.rank * (module.in_features + module.out_features)
    return total
