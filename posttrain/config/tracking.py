"""Where the metrics of training go besides ``metrics.jsonl``."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from posttrain.config.base import Config

_NAMES = ("tensorboard", "wandb", "swanlab", "mlflow")
_SECRETS = ("api_key", "key", "token", "password", "username")


class _Tracker(Config):
    """What the services share: no key of theirs may stand in a recipe, which gets shared."""

    variable: ClassVar[str]  # of the environment, where the key is looked for

    @model_validator(mode="before")
    @classmethod
    def _refuse_secrets(cls, values: Any) -> Any:
        written = values if isinstance(values, dict) else {}
        if found := next((name for name in _SECRETS if name in written), None):
            raise ValueError(
                f"`{found}` does not belong into a recipe; delete it and set the environment "
                f"variable {cls.variable}"
            )
        return values


class WandbConfig(_Tracker):
    """Weights & Biases; the key comes from `$WANDB_API_KEY`."""

    variable: ClassVar[str] = "WANDB_API_KEY"

    project: Annotated[str, Field(min_length=1, max_length=128)] = "posttrain"
    """Project that the runs appear in."""
    entity: str | None = None
    """Team or user; your own where absent."""
    mode: Literal["offline", "online", "disabled"] = "offline"
    """`offline` writes files only, which `wandb sync` can send later."""


class SwanlabConfig(_Tracker):
    """SwanLab; the key comes from `$SWANLAB_API_KEY`."""

    variable: ClassVar[str] = "SWANLAB_API_KEY"

    project: Annotated[str, Field(min_length=1, max_length=100)] = "posttrain"
    """Project that the runs appear in."""
    workspace: str | None = None
    """Organization or user; your own where absent."""
    mode: Literal["offline", "local", "cloud", "disabled"] = "offline"
    """`offline` writes files only, which `swanlab sync` can send later; `local` ones that
    `swanlab watch` shows on this machine."""


class MlflowConfig(_Tracker):
    """MLflow; a server's token or user comes from `$MLFLOW_TRACKING_TOKEN` and its like."""

    variable: ClassVar[str] = "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD"

    experiment: Annotated[str, Field(min_length=1, max_length=256)] = "posttrain"
    """Experiment that the runs appear in."""
    uri: str | None = None
    """A server (`http://localhost:5000`) or a SQLite file (`sqlite:////data/mlflow.db`); where
    absent `$MLFLOW_TRACKING_URI`, or else `mlflow.db` in the stage's folder."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_secret_in_uri(cls, values: Any) -> Any:
        # Of the whole: a message about the key itself would repeat its value.
        uri = values.get("uri") if isinstance(values, dict) else None
        parts = urlsplit(uri if isinstance(uri, str) else "")
        if parts.password or parts.username:
            raise ValueError(f"`uri` holds a secret; take it out and set {cls.variable}")
        return values

    @field_validator("uri")
    @classmethod
    def _refuse_files(cls, uri: str | None) -> str | None:
        if uri is not None and urlsplit(uri).scheme in ("", "file"):
            raise ValueError(
                "MLflow no longer writes folders of files; give a SQLite file, such as "
                "sqlite:////data/mlflow.db, or a server"
            )
        return uri


class TrackingConfig(Config):
    """Who is told of the metrics; `metrics.jsonl` is always written.

    A list of names, `[tensorboard, swanlab]`, takes these and no others, with their defaults.
    """

    shorthands: ClassVar[tuple[dict[str, Any], ...]] = (
        {"type": "array", "items": {"enum": [*_NAMES]}},
        {"enum": [*_NAMES, "none"]},
    )

    tensorboard: bool = True
    """Write TensorBoard's event files into the stage's folder."""
    wandb: WandbConfig | None = None
    """Weights & Biases; `{}` takes its defaults."""
    swanlab: SwanlabConfig | None = None
    """SwanLab; `{}` takes its defaults."""
    mlflow: MlflowConfig | None = None
    """MLflow; `{}` takes its defaults."""

    @classmethod
    def read_shorthand(cls, value: Any) -> dict[str, Any] | None:
        """Read `[tensorboard, swanlab]`, `swanlab`, or `none`."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)):
            return None
        chosen = [name for name in names if name != "none"]
        for name in chosen:
            if name not in _NAMES:
                near = difflib.get_close_matches(str(name).lower(), _NAMES, n=1, cutoff=0.5)
                hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(_NAMES)}"
                raise ValueError(f"no tracker is called `{name}`; {hint}")
        switches: dict[str, Any] = {name: {} if name in chosen else None for name in _NAMES}
        return switches | {"tensorboard": "tensorboard" in chosen}
