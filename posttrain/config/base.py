"""What every part of a recipe shares: frozen, no unknown keys, paths that know their file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Config(BaseModel):
    """Base of all recipe parts; a string under a field documents it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    # JSON Schemas of what `read_shorthand` takes.
    shorthands: ClassVar[tuple[dict[str, Any], ...]] = ()

    @classmethod
    def read_shorthand(cls, value: Any) -> dict[str, Any] | None:
        """Return the keys that a value in place of a mapping stands for, as ``split: 8:1:1`` does.

        None where it stands for none.

        Raises:
            ValueError: It is meant to, and is not well formed.
        """
        return None

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: Any) -> Any:
        return value if (whole := cls.read_shorthand(value)) is None else whole

    @model_validator(mode="before")
    @classmethod
    def _refuse_truth_as_number(cls, values: Any) -> Any:
        """YAML reads ``yes`` and ``on`` as true, and pydantic would read true as 1."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            allowed = (field.annotation, *get_args(field.annotation)) if field else ()
            if isinstance(value, bool) and field and bool not in allowed:
                raise ValueError(f"`{name}` is no switch; it cannot be {str(value).lower()}")
        return values


def find_inside(model: type[BaseModel], name: str) -> list[str]:
    """Find the sections right below a part of a recipe that have a key of this name.

    Args:
        model: The part's class.
        name: As somebody wrote it, one level too high.

    Returns:
        Keys such as ``data.block_tokens``.
    """
    return [
        f"{section}.{name}"
        for section, field in model.model_fields.items()
        for kind in (field.annotation, *get_args(field.annotation))
        if isinstance(kind, type) and issubclass(kind, Config) and name in kind.model_fields
    ]


class KeyMistakesError(ValueError):
    """Mistakes in a mapping whose keys are not fields of ours; each is told at its own line.

    Args:
        messages: Key -> what is wrong with it.
    """

    def __init__(self, messages: dict[str, str]) -> None:
        super().__init__("; ".join(f"`{key}`: {text}" for key, text in messages.items()))
        self.messages = messages


class Located(str):
    """A string from a recipe that remembers the folder its relative paths start from."""

    base: Path

    def __new__(cls, text: str, base: Path) -> Located:
        """Make the string ``text`` whose paths are relative to ``base``."""
        made = super().__new__(cls, text)
        made.base = base
        return made


def _resolve_path(value: Any) -> Any:
    if isinstance(value, Located):
        return (value.base / Path(value).expanduser()).resolve()
    return value


def _resolve_model(value: Any) -> Any:
    """Make a local path absolute; leave built-in names and hub ids such as ``Qwen/Qwen3-8B``."""
    if isinstance(value, Located):
        looks_local = value.startswith((".", "/", "~")) or (value.base / value).exists()
        if looks_local:
            return str((value.base / Path(value).expanduser()).resolve())
        return str(value)
    return value


def _resolve_template(value: Any) -> Any:
    """Make a template's path absolute; leave the name of a template that comes with us."""
    if isinstance(value, Located) and value.isidentifier() and not (value.base / value).exists():
        return str(value)
    return _resolve_path(value)


ConfigPath = Annotated[Path, BeforeValidator(_resolve_path)]
"""A path; relative ones start from the recipe's folder, those in overrides from the current one."""

TemplatePath = Annotated[Path, BeforeValidator(_resolve_template)]
"""A path like ``ConfigPath``, or the name of a template that comes with the package."""

ModelName = Annotated[str, BeforeValidator(_resolve_model), Field(min_length=1)]
"""A built-in name (``tiny``, ``tiny-wide``), a local folder, or a hub id."""

StageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
"""A name that is also a folder: lower-case letters, digits, ``.``, ``_`` and ``-``."""
