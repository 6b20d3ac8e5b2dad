"""Where a model comes from, told from what its run left behind."""

from __future__ import annotations

from pathlib import Path

import yaml

from posttrain.checkpoints import MANIFEST, find_damage
from posttrain.errors import CheckpointError, VerificationError
from posttrain.files import load_json
from posttrain.logs import format_duration


def explain_folder(folder: Path) -> str:
    """Describe a run, a stage, a checkpoint or a model.

    Args:
        folder: Any of these.

    Returns:
        Text for the terminal: stages, lineage, and whether the files are as written.

    Raises:
        CheckpointError: The folder holds nothing of ours.
        VerificationError: A file has changed since it was written.
    """
    parts = []
    # A model or checkpoint itself, the model of a stage, or those of a run's stages.
    for manifest in (
        *folder.glob(MANIFEST),
        *folder.glob(f"final/{MANIFEST}"),
        *sorted(folder.glob(f"*/final/{MANIFEST}")),
    ):
        if damage := find_damage(manifest.parent):
            raise VerificationError(f"{manifest.parent}: {damage}")
        written = load_json(manifest)
        count = len(written["files"])
        made = f"step {written['step']}" if "step" in written else written.get("made_by", "a model")
        parts.append(f"{manifest.parent}: {made}, all {count} files intact")
    home = _find_lineage(folder)
    if home:
        text = yaml.safe_dump(load_json(home / "lineage.json"), sort_keys=False, allow_unicode=True)
        parts.append(f"lineage ({home / 'lineage.json'}):\n{text.rstrip()}")
    if not home and (folder / "config.json").is_file():
        parts.extend(_describe_run(folder))
    if not parts:
        raise CheckpointError(
            f"{folder}: no lineage, manifest or run found here",
            hint="give a folder below runs/",
        )
    return "\n".join(parts)


def _find_lineage(folder: Path) -> Path | None:
    """The nearest folder at or above this one, at most three up, that has a lineage."""
    candidates = [folder, *folder.resolve().parents][:4]
    return next((path for path in candidates if (path / "lineage.json").is_file()), None)


def _describe_run(folder: Path) -> list[str]:
    config = load_json(folder / "config.json")
    if "stages" not in config:
        return []
    lines = [f"run {config['name']} of model {config['model']['path']} ({config['tuning']})"]
    for stage in config["stages"]:
        marker = folder / stage["name"] / "stage.json"
        if not marker.is_file():
            lines.append(f"  {stage['name']} ({stage['stage']}): not finished")
            continue
        done = load_json(marker)
        figures = ", ".join(
            f"{k} {_short(v)}" for k, v in done.get("summary", {}).items() if v not in ("", None)
        )
        lines.append(
            f"  {stage['name']} ({stage['stage']}): done {done['finished_at']} in "
            f"{format_duration(done['seconds'])}; {figures}"
        )
    return lines


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
