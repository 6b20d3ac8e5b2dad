"""The command `evaluate --opencompass`: a model's entry for OpenCompass, and how to start it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from posttrain.config.opencompass import OpencompassCommand
from posttrain.files import write_errors
from posttrain.logs import say, show
from posttrain.runs.targets import settle_target


def describe_to_opencompass(target: str, overrides: Sequence[str]) -> Path:
    """Write a model's entry for OpenCompass, and show the command that measures it.

    Args:
        target: A recipe, whose newest model is meant; a run, a stage, or any model.
        overrides: ``key=value`` strings: settings of ``OpencompassCommand``; with a recipe only
            those that begin with ``opencompass.`` or ``out=``.

    Returns:
        The file.

    Raises:
        PosttrainError: Any mistake in settings or model.
    """
    from posttrain.evaluation.opencompass import write_opencompass

    settings, model, folder = settle_target(
        OpencompassCommand, "opencompass", {}, target, overrides, folder="opencompass"
    )
    name = _name(model.path)
    with write_errors(folder, "out=DIR"):
        folder.mkdir(parents=True, exist_ok=True)
    path = write_opencompass(settings.opencompass, model, folder, name=name, typed=settings.model)
    say(f"OpenCompass's entry for {model.path}: {path}")
    show(
        f"opencompass --config-dir {shlex.quote(str(folder))} --models {path.stem} "
        "--datasets demo_gsm8k_chat_gen"
    )
    return path


def _name(model: str) -> str:
    """The last two parts of a path or hub id, less what all models of runs are called."""
    parts = [part for part in Path(model).parts if part not in ("/", "final")]
    return "_".join(parts[-2:])
