"""Find the model that a run, stage, or folder means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.model import ModelConfig
from posttrain.errors import CheckpointError
from posttrain.files import load_json


def find_latest_model(name: str) -> str:
    """Turn a run's or stage's folder into the folder of its newest finished model.

    Args:
        name: A run, a stage, a model folder, a hub id, or a built-in name.

    Returns:
        The model's folder, or ``name`` where it is none of ours.

    Raises:
        CheckpointError: It is a run of ours without a finished model.
    """
    path = Path(name)
    if (path / "final").is_dir():
        return str(path / "final")
    if not (path / "config.json").is_file() or "stages" not in load_json(path / "config.json"):
        return name
    for stage in reversed(load_json(path / "config.json")["stages"]):
        if (path / stage["name"] / "final").is_dir():
            return str(path / stage["name"] / "final")
    raise CheckpointError(
        f"{path}: this run has no finished model yet", hint="let its training end first"
    )


def identify_model(model: ModelConfig) -> Any:
    """What tells a model from another: of a local folder, names, sizes and times of its files."""
    path = Path(model.path)
    if not path.is_dir():
        return [model.path, model.revision] if model.revision else model.path
    files = sorted(file for file in path.iterdir() if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
