"""Run folders as they are found on the disk: finished, half done, or with only some of the parts.

Nothing is required but the folder itself, so every reader gives an empty value for what is absent.
A file that is there and cannot be read is an error with its name.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.config.train import TRAINING_STAGES
from posttrain.errors import DataError
from posttrain.files import list_current
from posttrain.logs import say

Row = dict[str, Any]


@dataclass(frozen=True)
class TaskFolder:
    """Results of one task of an evaluate stage."""

    path: Path
    results: Row
    """``results.json``; empty where the evaluation did not finish."""

    @property
    def label(self) -> str:
        """Name of the task within its stage."""
        return self.path.name

    @property
    def is_told(self) -> bool:
        """Whether it is finished and its results have what reports need; says so where not."""
        if not self.results:
            return False
        known = self.results.keys()
        lacks = [] if known & {"value", "accuracy"} else ["value"]
        lacks += ["problems"] if "problems" not in known else []
        accuracy = self.results.get("metric", "accuracy") == "accuracy"
        lacks += ["correct"] if accuracy and "correct" not in known else []
        if lacks:
            # Whoever does not say what kind it is of cannot be graded anew.
            mend = "posttrain regrade" if "kind" in known else ""
            _say_left_out(self.path, ", ".join(f"`{name}`" for name in lacks), mend)
        return not lacks

    def load_records(self) -> list[Row]:
        """Read the graded answers; none where there is no such file."""
        return _read_jsonl(self.path / "records.jsonl")


@functools.cache  # several readers meet the same folder
def _say_left_out(path: Path, lacks: str, mend: str) -> None:
    todo = f"grade its answers anew with {mend} {path}" if mend else "run the evaluation again"
    say(f"left out: {path}: its results.json has no {lacks}; {todo}")


@dataclass(frozen=True)
class Metrics:
    """Course of a training stage, one point per step, in the order of steps."""

    training: tuple[Row, ...] = ()
    validation: tuple[Row, ...] = ()

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Return steps and values of ``key``, finite ones only."""
        points = self.validation if is_measured(key) else self.training
        found = [(p["step"], p[key]) for p in points if _is_finite(p.get(key))]
        return [float(step) for step, _ in found], [float(value) for _, value in found]


@dataclass(frozen=True)
class StageFolder:
    """One stage of a run."""

    path: Path
    name: str
    kind: str
    """As ``stage`` in the recipe; without one ``training``, ``evaluate`` or ``sample-data``."""
    settings: Row
    """Its part of the recipe."""
    outcome: Row
    """``stage.json``; empty until the stage is finished."""
    tasks: tuple[TaskFolder, ...] = ()
    metrics: Metrics = Metrics()
    data_report: Row = field(default_factory=dict)
    lineage: Row = field(default_factory=dict)

    @property
    def is_training(self) -> bool:
        """Whether the stage changes weights."""
        return self.kind in (*TRAINING_STAGES, "training")

    @property
    def state(self) -> str:
        """``finished``, ``unfinished`` or ``not started``."""
        if self.outcome:
            return "finished"
        return "unfinished" if self.path.is_dir() else "not started"

    @property
    def summary(self) -> Row:
        """Closing numbers of the stage, empty until it is finished."""
        return dict(self.outcome.get("summary") or {})


@dataclass(frozen=True)
class RunFolder:
    """A run with its stages in the order of the recipe."""

    path: Path
    config: Row
    environment: Row
    lineage: Row
    stages: tuple[StageFolder, ...]

    @property
    def name(self) -> str:
        """Name as in the recipe, else that of the folder."""
        return str(self.config.get("name") or self.path.name)

    @property
    def model(self) -> str:
        """The model that the run started from; empty where no recipe is there."""
        return str((self.config.get("model") or {}).get("path", ""))

    @property
    def training_stages(self) -> list[StageFolder]:
        """Stages that change weights and have begun."""
        return [s for s in self.stages if s.is_training and s.state != "not started"]

    @property
    def evaluate_stages(self) -> list[StageFolder]:
        """Evaluate stages with at least one finished task."""
        return [s for s in self.stages if any(task.results for task in s.tasks)]


def load_run(path: Path) -> RunFolder:
    """Read a run folder.

    Args:
        path: ``runs/<name>``.

    Returns:
        What is there of it.

    Raises:
        DataError: There is no such folder, it holds nothing of a run, or a file in it is broken.
    """
    path = path.resolve()
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", hint="give the folder of a run")
    config = _read_object(path / "config.json")
    stages = _load_stages(path, config)
    if not config and not stages:
        raise DataError(f"{path}: holds no run: no config.json and no stage in it")
    return RunFolder(
        path,
        config,
        _read_object(path / "environment.json"),
        _read_object(path / "lineage.json"),
        tuple(stages),
    )


def load_stage(path: Path, settings: Row | None = None) -> StageFolder:
    """Read a stage folder; one that is not there yet gives a stage without contents."""
    outcome = _read_object(path / "stage.json")
    # What a finished stage was run with; the recipe may have been changed since.
    settings = {**(settings or {}), **(outcome.get("settings") or {})}
    tasks = _load_tasks(path)
    metrics = _read_jsonl(path / "metrics.jsonl")
    guess = "evaluate" if tasks else "training" if metrics else "sample-data"
    return StageFolder(
        path,
        str(settings.get("name") or outcome.get("name") or path.name),
        str(outcome.get("stage") or settings.get("stage") or guess),
        settings,
        outcome,
        tasks,
        build_metrics(metrics),
        _read_object(path / "data" / "report.json"),
        _read_object(path / "lineage.json"),
    )


def load_task(path: Path) -> TaskFolder | None:
    """Read a task folder; None where ``path`` is not one."""
    if not (path / "results.json").is_file() and not (path / "records.jsonl").is_file():
        return None
    return TaskFolder(path, _read_object(path / "results.json"))


@dataclass(frozen=True)
class Evaluation:
    """A finished task and where it stands."""

    run: str
    stage: str
    """Folder of the task's stage within its run; empty where the task stands alone."""
    task: TaskFolder
    root: Path
    """Folder of the run."""

    @property
    def finished_at(self) -> str:
        """When its stage ended; empty where that is not known."""
        return str(_read_object(self.task.path.parent / "stage.json").get("finished_at") or "")


def find_evaluations(path: Path) -> list[Evaluation]:
    """Find every finished evaluation in a folder, also those that no stage of a recipe has made.

    Args:
        path: A run, a stage, a task, or any folder with tasks in it.

    Returns:
        By stage and task; results that were kept beside newer ones are left out.

    Raises:
        DataError: There is no such folder, or a file in it is broken.
    """
    path = path.resolve()
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", hint="give the folder of a run")
    homes = (home for home in (path, *list(path.parents)[:2]) if _is_run(home))
    root = next(homes, path.parent if load_task(path) else path)
    name = str(_read_object(root / "config.json").get("name") or root.name)
    depths = ("", "*/", "*/*/")
    files = [file for depth in depths for file in list_current(path, f"{depth}results.json")]
    found = []
    for file in sorted(files):
        parts = file.parent.relative_to(root).parts
        task = load_task(file.parent)
        if not task or not (task.path / "records.jsonl").is_file():
            continue
        if task.is_told:
            found.append(Evaluation(name, "-".join(parts[:-1]), task, root))
    return found


def _is_run(path: Path) -> bool:
    return "stages" in _read_object(path / "config.json")


def build_metrics(lines: Iterable[Row]) -> Metrics:
    """Settle which lines of ``metrics.jsonl`` count.

    A resumed run appends from its checkpoint on. The later line of a step wins, and what an
    abandoned attempt wrote beyond the place of resumption is forgotten with it.

    Args:
        lines: In the order of the file.

    Returns:
        One point per step.
    """
    training: list[Row] = []
    validation: list[Row] = []
    for line in lines:
        step = line.get("step")
        if not isinstance(step, int | float):
            continue
        if any(map(is_measured, line)):
            _drop_from(validation, step)
            validation.append(line)
        if "loss" in line or "learning_rate" in line:
            _drop_from(training, step)
            _drop_from(validation, step + 1)
            training.append(line)
    return Metrics(tuple(training), tuple(validation))


def is_measured(key: str) -> bool:
    """Whether a metric is of validation data or of a task, such as ``gsm8k/accuracy``."""
    return key.startswith("validation_") or "/" in key


def _drop_from(points: list[Row], step: float) -> None:
    while points and points[-1]["step"] >= step:
        points.pop()


def _load_stages(path: Path, config: Row) -> list[StageFolder]:
    settings = config.get("stages") or []
    stages = [load_stage(path / str(s.get("name") or s["stage"]), s) for s in settings]
    if stages:
        return stages
    # Without a recipe the order is that of finishing; what is unfinished comes last.
    folders = sorted({file.parent for file in list_current(path, "*/*")})
    found = [load_stage(folder) for folder in folders if _is_stage(folder)]
    return sorted(found, key=lambda s: (not s.outcome, str(s.outcome.get("finished_at", ""))))


def _is_stage(folder: Path) -> bool:
    marks = ("stage.json", "metrics.jsonl", "data/report.json", "*/results.json", "*/records.jsonl")
    return folder.is_dir() and any(next(folder.glob(mark), None) for mark in marks)


def _load_tasks(path: Path) -> tuple[TaskFolder, ...]:
    names = ("results.json", "records.jsonl")
    folders = sorted({file.parent for n in names for file in list_current(path, f"*/{n}")})
    return tuple(task for folder in folders if (task := load_task(folder)))


def _read_object(path: Path) -> Row:
    """Read a JSON object; empty where there is no such file."""
    text = _read(path)
    if text is None:
        return {}
    value = _parse(text, str(path))
    if not isinstance(value, dict):
        raise DataError(f"{path}: not a JSON object")
    return value


def _read_jsonl(path: Path) -> list[Row]:
    """Read JSON lines; an unfinished last line, as a killed process leaves it, is left out."""
    # Only "\n" ends a line: a model may write U+2028 or U+0085, where str.splitlines cuts too.
    lines = (_read(path) or "").split("\n")[:-1]
    rows = [(n, _parse(t, f"{path}:{n}")) for n, t in enumerate(lines, 1) if t.strip()]
    for number, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: not a JSON object")
    return [row for _, row in rows]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place}: not valid JSON", hint="the file is damaged") from error


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
