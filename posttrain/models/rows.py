"""Which rows of embeddings and output layer are trained beside adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.model import LoraConfig, ModelConfig
from posttrain.errors import CheckpointError, ConfigError
from posttrain.files import load_json
from posttrain.models.load import find_model, load_tokenizer

VOCABULARY_REPORT = "vocabulary.json"
"""What `extend-tokenizer` writes beside a model whose vocabulary it has extended."""


def find_rows(config: LoraConfig, model: ModelConfig, rows: int) -> list[int]:
    """Find the token ids whose rows a recipe wants trained.

    Args:
        config: Says which.
        model: The model that training starts from.
        rows: How many it has.

    Returns:
        Ids in ascending order.

    Raises:
        ConfigError: A token is unknown, an id is too large, or no tokens were added.
        CheckpointError: The model cannot be found, or its list of added tokens cannot be read.
    """
    if config.train_rows in ("auto", "added"):
        added = find_added_rows(model)
        if config.train_rows == "added" and not added:
            raise ConfigError(
                f"lora.train_rows: added: model {model.path} has no tokens that extend-tokenizer "
                "has added",
                hint="name tokens or ids, or leave it at auto",
            )
        return added
    names = [item for item in config.train_rows if isinstance(item, str)]
    known = load_tokenizer(model).get_vocab() if names else {}
    found: set[int] = set()
    for item in config.train_rows:
        id_ = _find_id(item, known) if isinstance(item, str) else item
        if id_ is None or id_ >= rows:
            raise ConfigError(
                f"lora.train_rows: {item!r} is no token of model {model.path}",
                hint=f"give tokens as its vocabulary writes them, or ids below {rows:,}",
            )
        found.add(id_)
    return sorted(found)


def _find_id(token: str, known: dict[str, int]) -> int | None:
    """Look a token up as it is, or as byte-level vocabularies write one with a leading space."""
    return known.get(token, known.get(token.replace(" ", "\u0120")))


def find_added_rows(model: ModelConfig) -> list[int]:
    """Find the rows of a model that stand for tokens of `extend-tokenizer` and are yet untrained.

    Its folder says so; what has been trained from it lies in a folder of its own.

    Raises:
        CheckpointError: The model cannot be found, or the list cannot be read.
    """
    report = Path(find_model(model.path)) / VOCABULARY_REPORT
    if not report.is_file():
        return []
    try:
        tokens: list[dict[str, Any]] = load_json(report)["tokens"]
        return sorted(int(token["id"]) for token in tokens)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{report}: cannot be read: {error}", hint="extend the vocabulary again"
        ) from error
