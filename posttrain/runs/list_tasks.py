"""The command `tasks`: which tasks can be named here, and what one of them says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from posttrain.config.tasks import SHIPPED, find_task, list_tasks, load_task_file
from posttrain.errors import ConfigError
from posttrain.reports.terminal import build_table, to_text


def render_tasks(folder: Path) -> str:
    """Write the tasks that can be named in a folder as a table.

    Args:
        folder: Of the recipe.

    Returns:
        Plain text without a newline at the end.
    """
    table = build_table("task", "kind", "what", "from")
    for path, task in list_tasks(folder).items():
        if isinstance(task, ConfigError):
            table.add_row(path.stem, "broken", str(task), _place(path, folder))
            continue
        kind = str(task.document.values.get("kind", ""))
        table.add_row(task.name, kind, task.about, _place(path, folder))
    return to_text(table)


def show_task(name: str, folder: Path) -> str:
    """Write down what a task's file says, with what it builds on.

    Args:
        name: Of the task, or a path.
        folder: Of the recipe.

    Raises:
        ConfigError: There is no such task.
    """
    task = load_task_file(find_task(name, folder, "command line"), folder)
    kind = task.document.values.get("kind")
    about = [f"# {task.about}"] if task.about else []
    lines = [
        f"# {task.path}",
        *about,
        f"# every setting: docs/settings.md, kind: {kind}",
        yaml.dump(
            _plain(task.document.values),
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=96,
        ),
    ]
    return "\n".join(lines).rstrip()


class _Dumper(yaml.SafeDumper):
    """YAML whose line breaks in short texts are written as such."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent)


def _place(path: Path, folder: Path) -> str:
    if path.parent == SHIPPED:
        return "posttrain"
    here = path.is_relative_to(folder.resolve())
    return str(path.relative_to(folder.resolve()) if here else path)


def _plain(value: Any) -> Any:
    """Make strings that remember their folder plain ones."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
