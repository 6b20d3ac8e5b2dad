"""Which checkpoints of a training stage are kept, and by what figure one is better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, PositiveInt

from posttrain.config.base import Config, Located

HIGHER_IS_BETTER = {
    "loss": False,
    "perplexity": False,
    "token_accuracy": True,
    "pair_accuracy": True,
    "margin": True,
    "reward": True,
    "accuracy": True,
}
"""Validation metrics of which it is known."""


class KeepBestConfig(Config):
    """The checkpoints kept for what they are worth; a metric alone stands for the best by it."""

    shorthands: ClassVar[tuple[dict[str, Any], ...]] = ({"type": "string"},)

    metric: str | None = None
    """Validation metric, as `metrics.jsonl` calls it without `validation_`: `loss`, `perplexity`,
    `token_accuracy`, `pair_accuracy`, `margin`, `reward`, `accuracy`, ...; or a task's of
    `evaluation`: `gsm8k/accuracy`, or `accuracy` alone where one task has it and validation has
    not. Where absent `loss`, of `grpo` and `ppo` `reward`."""
    count: PositiveInt = 1
    """How many; the link `best` points to the best of them."""
    higher_is_better: bool | None = None
    """Needed for a metric of which that is not known, such as `entropy`."""

    @classmethod
    def read_shorthand(cls, value: Any) -> dict[str, Any] | None:
        """Take the name of a metric."""
        return {"metric": str(value)} if isinstance(value, str) else None


def _resolve_place(value: Any) -> Any:
    """Make a folder's path absolute; leave a URL."""
    if isinstance(value, str) and "://" not in value:
        base = value.base if isinstance(value, Located) else Path()
        return str((base / Path(value).expanduser()).resolve())
    return value


def _refuse_secrets(url: str) -> str:
    if "://" in url and urlsplit(url).password is not None:
        raise ValueError("no passwords in a recipe: keys come from the environment")
    return url


UploadPlace = Annotated[str, BeforeValidator(_resolve_place), AfterValidator(_refuse_secrets)]
"""A folder, or a URL of a kind that fsspec knows."""
