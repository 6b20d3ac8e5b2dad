"""Before the first step: there is something to train, and the optimizer has exactly that."""

from __future__ import annotations

from typing import Any

from posttrain.config.guards import GuardedStage
from posttrain.errors import ConfigError, VerificationError
from posttrain.models.lora import count_elements


def check_trainable(model: Any, planned: int | None = None) -> tuple[int, int]:
    """Count parameters and refuse a model with other trainable ones than it should have.

    Args:
        model: About to be trained.
        planned: Trainable parameters that its settings mean; None where that is not known.

    Returns:
        Trainable and total parameters; tied weights count once.

    Raises:
        VerificationError: Nothing is trainable, or not what is meant.
    """
    trainable, total = count_parameters(model)
    if not trainable:
        raise VerificationError("no parameter of the model is trainable; training would do nothing")
    if planned is not None and trainable != planned:
        raise VerificationError(
            f"{trainable:,} parameters of the model are trainable, and the settings mean "
            f"{planned:,} (posttrain plan)"
        )
    return trainable, total


def count_parameters(model: Any) -> tuple[int, int]:
    """Count the trainable and all parameters of a model; tied weights count once."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, sum(count_elements(p) for p in model.parameters())


def check_validation(stage: GuardedStage, examples: int) -> None:
    """Refuse to judge by validation where there is none.

    Args:
        stage: Its settings.
        examples: For validation.

    Raises:
        ConfigError: It wants the best model, or to stop early.
    """
    judging = [stage.watched] if stage.early_stopping else []
    judging += [stage.ranked_by] if stage.keeps_best else []
    if not examples and any(map(stage.needs_validation, judging)):
        key = "early_stopping" if stage.early_stopping else "final_model: best"
        raise ConfigError(
            f"`{key}` looks at validation, and there are no validation examples",
            hint="set data.split, such as split: {validation: 0.05}, or data.validation_sources",
        )


def check_optimizer(model: Any, optimizer: Any) -> None:
    """Refuse an optimizer that would not change exactly the trainable parameters.

    Args:
        model: About to be trained.
        optimizer: Of torch, or around one; DeepSpeed's holds them under names of its own.

    Raises:
        VerificationError: It has none of them, lacks some, or has others besides.
    """
    held = {id(p) for p in _list_parameters(optimizer)}
    named = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
    if not held:
        raise VerificationError(
            "the optimizer has no parameters; every step would run and nothing would be learned"
        )
    missing = [name for key, name in named.items() if key not in held]
    if missing:
        raise VerificationError(
            f"the optimizer does not have {missing[0]} and {len(missing) - 1} other trainable "
            "weights; they would stay as they are"
        )
    if others := len(held - named.keys()):
        raise VerificationError(
            f"the optimizer has {others} weights that are not trainable parts of the model"
        )


def _list_parameters(optimizer: Any) -> list[Any]:
    inner = getattr(optimizer, "optimizer", optimizer)
    for name in ("fp16_groups", "bit16_groups"):  # ZeRO-3; ZeRO-1 and 2
        if shared := getattr(inner, name, None):
            return [parameter for group in shared for parameter in group]
    return [parameter for group in inner.param_groups for parameter in group["params"]]
