"""Where every input row went, what the audit asked, and other facts of a run, as plain tables."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from posttrain.logs import format_bytes, format_duration
from posttrain.reports import figures, formatting
from posttrain.reports.folders import Row, StageFolder

Pairs = list[tuple[str, str]]
_MOST_FILES = 300
_LABELS = {
    "python": "Python",
    "platform": "Operating system",
    "cores": "CPU cores",
    "memory_bytes": "Memory",
    "compute device": "Device",
    "compute precision": "Precision",
    "compute threads": "CPU threads used",
    "compute reason": "Chosen because",
}


@dataclass(frozen=True)
class DataView:
    """The data of one training stage, ready to show."""

    stage: str
    report: Row
    accounts: list[tuple[str, int]]
    """What became of the rows, and how many."""
    balanced: bool
    """Whether they add up to the rows read."""
    contamination: Pairs
    lengths: Pairs
    plot: Markup | None


def build_data_view(stage: StageFolder) -> DataView | None:
    """Prepare the data report of a stage; None where it has none."""
    report = stage.data_report
    if not report:
        return None
    accounts = _list_accounts(report)
    balanced = sum(count for _, count in accounts) == report.get("rows_read")
    lengths = report.get("length_tokens") or {}
    return DataView(
        stage.name,
        {"sources": [], "audit": [], "longest": [], "contamination": None, **report},
        accounts,
        balanced,
        _describe_contamination(report.get("contamination")),
        [(name, formatting.format_count(value)) for name, value in lengths.items()],
        _draw_lengths(report.get("length_histogram") or {}, lengths),
    )


def _list_accounts(report: Row) -> list[tuple[str, int]]:
    examples = report.get("examples") or {}
    names = {"train": "Training examples", "validation": "Validation examples"}
    accounts = [(names.get(key, key), int(count)) for key, count in examples.items()]
    accounts.append(("Set aside for test", int(report.get("test_rows", 0))))
    rejects = report.get("rejects") or {}
    return accounts + [(f"Rejected: {reason}", int(count)) for reason, count in rejects.items()]


def _describe_contamination(result: Any) -> Pairs:
    if not result:
        return []
    actions = {
        "drop": "dropped from training",
        "report": "kept, only reported",
        "error": "would have stopped the run",
    }
    action = str(result.get("action", ""))
    number = formatting.format_number
    matches = [f"{count} by {what}" for what, count in (result.get("matches") or {}).items()]
    matched = result.get("matched_rows", 0)
    pairs = [
        ("Evaluation problems", number(result.get("evaluation_problems", 0))),
        ("Training rows searched", number(result.get("training_rows", 0))),
        ("Rows found", ", ".join(matches) or number(matched)),
    ]
    return [*pairs, ("They were", actions.get(action, action))] if matched else pairs


def _draw_lengths(histogram: Row, lengths: Row) -> Markup | None:
    counts, edges = histogram.get("counts"), histogram.get("edges")
    if not counts or not edges:
        return None
    names = {"p50": "median", "p99": "99 % are shorter"}
    marks = {text: lengths[key] for key, text in names.items() if key in lengths}
    return figures.draw_histogram("Length of the examples", counts, edges, marks)


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Turn nested facts into pairs of a readable name and text, in their order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{name} {key}".strip())
    elif value is not None:
        yield _label(name), _write(name, value)


def _label(name: str) -> str:
    known = _LABELS.get(name)
    if known or name.startswith("packages "):
        return known or name.removeprefix("packages ")
    for unit in ("_bytes", "_seconds"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def _write(name: str, value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and name.endswith("_bytes"):
        return format_bytes(value)
    if number and name.endswith("seconds"):
        return format_duration(value)
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    # A seed or a year is a name, not an amount: no thousands apart.
    return str(value)


def list_files(run: Path, left_out: str) -> tuple[Pairs, int]:
    """List the files of a run with their sizes.

    Args:
        run: The folder; links in it are shown, not followed.
        left_out: Name of a file at its top that is not listed: the report itself.

    Returns:
        The first 300 by name, and the number of those beyond.
    """
    found: Pairs = []
    for folder, folders, files in os.walk(run):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*files, *links]:
            path = Path(folder) / name
            shown = path.relative_to(run).as_posix()
            if not name.startswith(".") and shown != left_out:
                found.append((shown, _describe_file(path)))
    found.sort()
    return found[:_MOST_FILES], max(0, len(found) - _MOST_FILES)


def _describe_file(path: Path) -> str:
    try:
        if path.is_symlink():
            return f"→ {path.readlink()}"
        return format_bytes(path.stat().st_size)
    except FileNotFoundError:  # a run in progress renames its files
        return ""
