"""Evaluation tasks by name: what a file says of one, below what a stage says of it.

A stage's `task: NAME` means `tasks/NAME.yaml` beside the recipe, or a task that comes with us; with
a `/` or an ending it is a path. A task file may itself name another one to build on.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from posttrain.config.base import Located
from posttrain.config.classes import expand_shorthands, models_at
from posttrain.config.documents import Document, Key, load_document, merge_documents
from posttrain.config.evaluation import TASK_KINDS, BaseTask
from posttrain.errors import ConfigError

SHIPPED = Path(__file__).parents[1] / "evaluation" / "tasks"
"""Folder of the tasks that come with us."""
OWN = "tasks"
"""Folder of own tasks, beside a recipe."""
# Who says where the rows are lays aside all that the file says of the place.
_PLACES = (
    ("data", ("path", "from_stage"), ("path", "from_stage", "dataset", "split", "get")),
    ("shots", ("examples", "data"), ("examples", "data")),
)


@dataclass(frozen=True)
class TaskFile:
    """A task as its file describes it, files that it builds on included."""

    path: Path
    about: str
    """One line on what is measured."""
    document: Document
    """Its settings, and where each is written."""

    @property
    def name(self) -> str:
        """By which a stage names it."""
        return self.path.stem


def expand_tasks(document: Document, root: type[BaseModel]) -> None:
    """Lay every task that a document names over its file, in place.

    A task that says its own `kind` says all of itself and has no file.

    Args:
        document: Overrides applied.
        root: Class that describes it.

    Raises:
        ConfigError: There is no such task, or its file is no task.
    """
    document.values = _expand(document.values, (), [root], document)


def list_tasks(folder: Path) -> dict[Path, TaskFile | ConfigError]:
    """Read the tasks that can be named in a folder: its own ones, then those that come with us.

    Returns:
        File -> task, or why it is none.
    """
    found: dict[Path, TaskFile | ConfigError] = {}
    for path in _find_files(folder / OWN).values():
        try:
            found[path] = load_task_file(path, folder)
        except ConfigError as error:
            found[path] = error
    return found


def load_task_file(path: Path, folder: Path, above: tuple[Path, ...] = ()) -> TaskFile:
    """Read a task file, laid over the one that it builds on.

    Args:
        path: The file.
        folder: Where relative paths of a task that comes with us start.
        above: Files that build on this one.

    Raises:
        ConfigError: It is no task, or builds on itself.
    """
    if path in above:
        raise ConfigError(f"{path}: builds on itself through `task:`", hint="break the circle")
    document = load_document(path, (), BaseTask)
    about = str(document.values.pop("about", ""))
    if path.parent == SHIPPED:
        document.values = _move(document.values, folder)
    if "kind" not in document.values and "task" not in document.values:
        raise ConfigError(
            f"{path}: a task needs `kind` ({', '.join(TASK_KINDS)}) or, to build on another one, "
            "`task`"
        )
    values = _expand_task(document.values, (), document, (folder, *above, path))
    kind = TASK_KINDS.get(str(values.get("kind")))
    document.values = expand_shorthands(values | {"task": path.stem}, [kind] if kind else [])
    return TaskFile(path, about, document)


def find_task(name: str, folder: Path, where: str, above: tuple[Path, ...] = ()) -> Path:
    """Find the file of a task.

    Args:
        name: As a stage names it.
        folder: Whose own tasks come first.
        where: Place of the name, for the message.
        above: Files that build on it, the nearest one last: those beside it come first.

    Raises:
        ConfigError: There is none; names the nearest ones.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = (folder / Path(name).expanduser()).resolve()
        if not path.is_file():
            raise ConfigError(f"{where}: no task file {path}", hint="check the path")
        return path
    own = above[-1].parent if above else folder / OWN
    known = _find_files(own, above)
    if name in known:
        return known[name]
    if name in (path.stem for path in above):
        way = " -> ".join([*(path.stem for path in above), name])
        raise ConfigError(f"{where}: `task: {name}` makes a loop: {way}", hint="break the circle")
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    said = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else ""
    said = said or f"known: {', '.join(sorted(known))}"
    raise ConfigError(
        f"{where}: `{name}` is no task; {said}", hint=f"an own one is a file, {own / name}.yaml"
    )


def _find_files(own: Path, without: tuple[Path, ...] = ()) -> dict[str, Path]:
    """Name -> file of every task; own ones hide ours of the same name."""
    found: dict[str, Path] = {}
    for place in (own, SHIPPED):
        files = [path.resolve() for path in (*place.glob("*.yaml"), *place.glob("*.yml"))]
        for path in sorted(files, key=lambda path: path.stem):
            if path not in without:
                found.setdefault(path.stem, path)
    return found


def _expand(value: Any, key: Key, models: list[type[BaseModel]], document: Document) -> Any:
    if isinstance(value, list):
        return [_expand(item, (*key, i), models, document) for i, item in enumerate(value)]
    if any(issubclass(model, BaseTask) for model in models):
        return _expand_task(value, key, document, ())
    if isinstance(value, dict):
        return {
            name: _expand(item, (*key, name), models_at(models, value, name), document)
            for name, item in value.items()
        }
    return value


def _expand_task(value: Any, key: Key, document: Document, above: tuple[Path, ...]) -> Any:
    """Lay what is said of a task over its file; the origins of both go to the document.

    Args:
        value: What is said.
        key: Its place in the document.
        document: Whose origins are completed.
        above: Of a task's own file: the folder where our paths start, and the files so far.
    """
    if not isinstance(value, dict) or "kind" in value:
        return value
    where = document.find_origin((*key, "task")) or "command line"
    if not isinstance(name := value.get("task"), str):
        raise ConfigError(
            f"{where}: `{'.'.join(map(str, key))}` needs the key `task`, such as `task: gsm8k`",
            hint="`posttrain tasks` lists them",
        )
    base = name.base if isinstance(name, Located) else Path.cwd()
    folder, files = (above[0], above[1:]) if above else (base, ())
    file = load_task_file(find_task(name, base, where, files), folder, files)
    below = dict(file.document.values)
    kind = TASK_KINDS.get(str(below.get("kind")))
    over = expand_shorthands(value | {"task": file.name}, [kind] if kind else [])
    for part, places, names in _PLACES:
        low, high = below.get(part), over.get(part)
        if isinstance(low, dict) and isinstance(high, dict) and any(n in high for n in places):
            below[part] = {name: item for name, item in low.items() if name not in names}
    said = {k[len(key) :]: o for k, o in document.origins.items() if k[: len(key)] == key}
    merged = merge_documents(Document(below, file.document.origins), Document(over, said))
    if over.get("groups") == {}:  # said to have none, as against nothing said
        merged.values["groups"] = {}
    # What the file leaves to the stage is missing there, not in the file.
    merged.origins |= {(): where} | ({} if "data" in value else {("data",): where})
    document.origins |= {(*key, *k): o for k, o in merged.origins.items()}
    return merged.values


def _move(value: Any, folder: Path) -> Any:
    """Let relative paths start from another folder."""
    if isinstance(value, Located):
        return Located(value, folder)
    if isinstance(value, list):
        return [_move(item, folder) for item in value]
    if isinstance(value, dict):
        return {name: _move(item, folder) for name, item in value.items()}
    return value
