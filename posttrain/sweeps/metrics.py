"""Every number that a finished run has to show, by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.files import list_current, load_json, load_jsonl


def collect_metrics(run: Path) -> dict[str, float]:
    """Read the numbers of a run's stages.

    Args:
        run: A run's folder.

    Returns:
        ``stage.task.metric`` of evaluations, and ``stage.metric`` of summaries and of the last
        line of ``metrics.jsonl`` that has it; finite numbers only.
    """
    found: dict[str, float] = {}
    for stage in load_json(run / "config.json")["stages"]:
        folder = run / stage["name"]
        numbers: dict[str, Any] = {}
        if (folder / "metrics.jsonl").is_file():
            for row in load_jsonl(folder / "metrics.jsonl"):
                numbers |= row
        if (folder / "stage.json").is_file():
            numbers |= load_json(folder / "stage.json").get("summary") or {}
        found |= dict(_flatten(numbers, stage["name"]))
        for results in list_current(folder, "*/results.json"):
            found |= dict(_flatten(load_json(results), f"{stage['name']}.{results.parent.name}"))
    return found


def _flatten(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}.{key}")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            continue
        elif math.isfinite(value):
            yield f"{prefix}.{key}", float(value)
