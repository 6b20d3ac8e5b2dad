"""What was found out about a tokenizer, kept in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.files import cache_root, digest_json, load_json, write_json


def kept_path(name: str) -> Path:
    """Place of a finding in the cache."""
    return cache_root() / "encoders" / f"{name}.json"


def take_kept(path: Path) -> Any:
    """Take a finding; None where there is none, or it is not what was written."""
    try:
        kept = load_json(path)
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict) or kept.keys() != {"sha256", "value"}:
        return None
    return kept["value"] if kept["sha256"] == digest_json(kept["value"]) else None


def keep(path: Path, value: Any) -> None:
    """Write a finding with its digest."""
    write_json(path, {"sha256": digest_json(value), "value": value})
