"""Find the model that a run, stage, or folder means."""

from __future__ import annotations

from pathlib import Path

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
