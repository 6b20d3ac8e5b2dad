"""Where the metrics of training go besides ``metrics.jsonl``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from posttrain.config.base import Config

_SECRETS = ("api_key", "key", "token", "password")


class _Tracker(Config):
    """What the services share: no key of theirs may stand in a recipe, which gets shared."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_secrets(cls, values: Any) -> Any:
        written = values if isinstance(values, dict) else {}
        if found := next((name for name in _SECRETS if name in written), None):
            service = cls.__name__.removesuffix("Config").upper()
            raise ValueError(
                f"`{found}` does not belong into a recipe; delete it and set the environment "
                f"variable {service}_API_KEY"
            )
        return values


class WandbConfig(_Tracker):
    """Weights & Biases; the key comes from `$WANDB_API_KEY`."""

    project: Annotated[str, Field(min_length=1, max_length=128)] = "posttrain"
    """Project that the runs appear in."""
    entity: str | None = None
    """Team or user; your own where absent."""
    mode: Literal["offline", "online", "disabled"] = "offline"
    """`offline` writes files only, which `wandb sync` can send later."""


class SwanlabConfig(_Tracker):
    """SwanLab; the key comes from `$SWANLAB_API_KEY`."""

    project: Annotated[str, Field(min_length=1, max_length=100)] = "posttrain"
    """Project that the runs appear in."""
    workspace: str | None = None
    """Organization or user; your own where absent."""
    mode: Literal["offline", "local", "cloud", "disabled"] = "offline"
    """`offline` writes files only, which `swanlab sync` can send later; `local` ones that
    `swanlab watch` shows on this machine."""


class TrackingConfig(Config):
    """Who is told of the metrics; `metrics.jsonl` is always written."""

    tensorboard: bool = True
    """Write TensorBoard's event files into the stage's folder."""
    wandb: WandbConfig | None = None
    """Weights & Biases; `{}` takes its defaults."""
    swanlab: SwanlabConfig | None = None
    """SwanLab; `{}` takes its defaults."""
