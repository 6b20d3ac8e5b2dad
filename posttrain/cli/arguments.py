"""Arguments that several commands share, and how a target becomes a recipe."""

from __future__ import annotations

import difflib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings over those of the recipe."),
]


def examples(*lines: str) -> str:
    """Lay out a command's examples for its help."""
    return "[b]Examples[/b]\n\n" + "\n\n".join(f"  $ {line}" for line in lines)


def load(recipe: Path, overrides: list[str] | None) -> Recipe:
    """Read a recipe with its overrides."""
    from posttrain.config.load import load_recipe

    return load_recipe(recipe, overrides or [])


def load_for_data(target: Path, overrides: list[str] | None) -> Recipe:
    """Read a recipe, or make one around a data file: fine-tuning of the built-in model.

    Of a data file the settings of its source and of the stage's data go without what stands before
    them: ``dataset=NAME``, ``split=8:1:1``.
    """
    if target.suffix.lower() in (".yaml", ".yml"):
        return load(target, overrides)
    from posttrain.config.data import ChatDataConfig, SourceConfig
    from posttrain.config.load import build_recipe
    from posttrain.config.migrate import find_new_name
    from posttrain.config.recipe import Recipe
    from posttrain.errors import ConfigError

    known = [*SourceConfig.model_fields, *ChatDataConfig.model_fields, *Recipe.model_fields]

    def place(override: str) -> str:
        name = override.partition("=")[0].partition(".")[0]
        if name and name not in known and find_new_name(name) is None:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"command line `{override}`: unknown key `{name}`", hint=hint)
        if name in Recipe.model_fields:
            return override
        if name in SourceConfig.model_fields:
            return f"stages.0.data.sources.0.{override}"
        return f"stages.0.data.{override}" if name in ChatDataConfig.model_fields else override

    stage = {"stage": "sft", "data": {"sources": [{"path": target.resolve()}]}}
    values: dict[str, Any] = {"name": "data", "model": {"path": "tiny"}, "stages": [stage]}
    return build_recipe(values, [place(text) for text in overrides or []], str(target))


def typed_command() -> str:
    """The command as it was typed, to be typed again."""
    from posttrain.runtime import command_name

    return shlex.join([command_name(), *sys.argv[1:]])
