"""What was found out about a tokenizer, kept in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.files import cache_root, load_json


def kept_path(name: str) -> Path:
    """Place of a finding in the cache."""
    return cache_root() / "encoders" / f"{name}.json"


def take_kept(path: Path) -> Any:
    """Take a finding; None where there is none, or one that a crash has cut short."""
    try:
        return load_json(path)
    except (OSError, ValueError):
        return None
