"""Files that another tool's settings mean, as the new recipe must name them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from posttrain.config.migrate import MigrateConfig


@dataclass(frozen=True)
class OldPaths:
    """Finds files and writes their paths relative to the new recipe."""

    config: MigrateConfig

    def find(self, text: str) -> Path | None:
        """Find a file that the old settings mean, from their folder, one above it, or here."""
        path = Path(text).expanduser()
        source = self.config.source
        roots = (source.parent, *source.parents[1:4], Path.cwd())
        return next((root / path for root in roots if (root / path).exists()), None)

    def relate(self, text: str) -> str:
        """Write a path as the new recipe must; one that does not exist is taken from here."""
        found = self.find(text) or Path.cwd() / Path(text).expanduser()
        return os.path.relpath(found, self.config.out.parent)

    def find_rows(self, name: str, folder: str) -> tuple[str, str | None]:
        """Turn a name in LLaMA-Factory's dataset_info.json into a path.

        Args:
            name: Of a data set.
            folder: Where the registry lies.

        Returns:
            The path, and the hub id of one that has to be downloaded first.
        """
        registry = self.find(f"{folder}/dataset_info.json")
        try:
            entry = json.loads(registry.read_text(encoding="utf-8"))[name] if registry else {}
        except (OSError, ValueError, KeyError):
            entry = {}
        if registry and (file := entry.get("file_name")):
            return os.path.relpath(registry.parent / file, self.config.out.parent), None
        return self.relate(f"{folder}/{name}.json"), entry.get("hf_hub_url")
