"""Low-rank adapters through peft."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from posttrain.config.model import LoraConfig
from posttrain.errors import ConfigError


def add_lora(model: Any, config: LoraConfig, task: str | None = "CAUSAL_LM") -> Any:
    """Wrap a model in fresh, trainable adapters; everything else is frozen.

    Args:
        model: A transformers model.
        config: Rank, scale and places.
        task: What it does, as peft calls it; the fresh head of a ``SEQ_CLS`` model is trained
            whole and saved with the adapters. None for what peft has no name for.

    Returns:
        The peft model.

    Raises:
        ConfigError: No module has one of the named targets, or the output layer is one.
    """
    import peft

    head = model.get_output_embeddings()
    if config.targets != "all-linear":
        for name, module in model.named_modules():
            if module is head and _is_named(name, config.targets):
                raise ConfigError(
                    f"lora.targets: an adapter on the output layer {name} is not supported",
                    hint="leave it out",
                )
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type=task,
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )
    try:
        with quiet_peft():
            return peft.get_peft_model(model, settings)
    except ValueError as error:
        names = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if is_linear(m)})
        raise ConfigError(
            f"lora.targets: {error}".splitlines()[0],
            hint=f"linear modules of this model: {', '.join(names)}",
        ) from error


def widen_norms(model: Any) -> None:
    """Hold a frozen model's norms in fp32: they are small, and rounding them costs most."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = parameter.data.float()


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Hold back a warning that is peft's to act on: it asks transformers by a name of before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        yield


def is_linear(module: Any) -> bool:
    """Whether a module multiplies by one matrix: a linear layer, or GPT-2's own kind of it."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def _is_named(name: str, targets: Sequence[str]) -> bool:
    """Whether a module is meant: by its whole name or the end of it, as peft reads targets."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def count_lora_parameters(model: Any, config: LoraConfig) -> int:
    """Parameters that adapters would add, without building them.

    Args:
        model: The model, possibly on the meta device.
        config: Rank and places.

    Returns:
        Sum over the targeted layers of rank * (inputs + outputs), and the head of a reward model.
    """
    score = getattr(model, "score", None)
    head = model.get_output_embeddings() or score
    total = score.weight.numel() if score is not None else 0
    for name, module in model.named_modules():
        if config.targets == "all-linear":
            wanted = is_linear(module) and module is not head
        else:
            wanted = _is_named(name, config.targets)
        if wanted:
            total += config.rank * sum(module.weight.shape)
    return total


def count_elements(parameter: Any) -> int:
    """Count the values of a weight; in nf4 two of them share a stored byte."""
    packed = getattr(parameter, "quant_state", None)
    count: int = packed.shape.numel() if packed is not None else parameter.numel()
    return count
