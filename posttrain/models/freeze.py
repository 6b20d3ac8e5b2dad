"""Full tuning of a part of a model: what is left as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.errors import ConfigError
from posttrain.models.modules import describe_modules, find_names


def freeze_parts(model: Any, train_only: Sequence[str], freeze: Sequence[str]) -> None:
    """Let only some parameters be trained; of two tied ones both or none.

    No gradient is computed below the lowest layer that is trained.

    Args:
        model: All of whose parameters are trainable; possibly on the meta device.
        train_only: Patterns of what is trained; all where empty. A fresh reward head always is.
        freeze: Patterns of what is not trained all the same.

    Raises:
        ConfigError: A pattern means nothing, or nothing is left to train.
    """
    if not train_only and not freeze:
        return
    # Tied weights have several names, and any of them may be written.
    named = list(model.named_parameters(remove_duplicate=False))
    names = [name for name, _ in named]
    trained = find_names(train_only, names, model, "train_only") if train_only else set(names)
    if (score := getattr(model, "score", None)) is not None:
        trained |= {name for name, p in named if any(p is own for own in score.parameters())}
    frozen = find_names(freeze, names, model, "freeze")
    kept = {id(p) for name, p in named if name in trained}
    kept -= {id(p) for name, p in named if name in frozen}
    if not kept:
        raise ConfigError(
            "freeze: nothing is left to train",
            hint=f"modules of this model: {describe_modules(model)}",
        )
    for _, parameter in named:
        parameter.requires_grad_(id(parameter) in kept)
