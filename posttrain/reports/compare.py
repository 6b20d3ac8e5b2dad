"""Two evaluations of the same problems, compared answer by answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType

from posttrain.errors import DataError
from posttrain.evaluation.results import check_same, compare_pairs
from posttrain.evaluation.statistics import PairedComparison, estimate_ratio, wilson_interval
from posttrain.reports import formatting
from posttrain.reports.folders import Row, TaskFolder, load_run, load_stage, load_task
from posttrain.reports.terminal import build_table, to_text
from posttrain.reports.transcripts import Sample, build_answer, build_sample

_MOST_CHANGES = 5
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Side:
    """One of two evaluations, on the problems that both share."""

    name: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    """95 %; None for a single text."""
    correct: int | None
    """None where nothing is right or wrong: texts are foretold, or answers have a score."""
    total: int
    unshared: int
    """Problems that only this side has; they are left out of every number."""

    @property
    def amount(self) -> str:
        """On how much it was measured, and how much of it was right."""
        if self.correct is None:
            return f"{self.total} {'problems' if self.metric == 'score' else 'texts'}"
        return f"{self.correct} of {self.total}"

    @property
    def shown(self) -> str:
        """The score by itself."""
        return formatting.format_score(self.metric, self.value)

    @property
    def shown_interval(self) -> str:
        """Its 95 % interval; empty where there is none."""
        return formatting.format_score_interval(self.metric, self.interval)


@dataclass(frozen=True)
class TaskComparison:
    """Two evaluations of one task."""

    label: str
    first: Side
    second: Side
    metric: str
    """Of the difference: ``accuracy``, ``bits_per_byte`` or ``score``."""
    paired: PairedComparison
    """First minus second."""
    only_first: tuple[Sample, ...]
    """Problems that only the first one has right, five at most, in the order of the file."""
    only_second: tuple[Sample, ...]
    folders: tuple[TaskFolder, TaskFolder]
    """Where the two were read."""

    @property
    def ties(self) -> int:
        """Problems on which neither side is better."""
        return self.paired.total - self.paired.wins - self.paired.losses

    @property
    def is_shown(self) -> bool:
        """Whether chance is an unlikely explanation of the difference."""
        return self.paired.p_value is not None and self.paired.p_value < SIGNIFICANT

    @property
    def difference(self) -> str:
        """The difference with its unit."""
        return formatting.format_change(self.metric, self.paired.difference)

    @property
    def difference_interval(self) -> str:
        """The difference's interval; empty where there is none."""
        return formatting.format_change_interval(self.metric, self.paired.interval)

    @property
    def methods(self) -> str:
        """How the numbers were found."""
        if self.metric == "score":
            return "Intervals and p: Student's t over the problems."
        if self.metric == "accuracy":
            return "Intervals: Wilson; difference: Newcombe 1998; p: exact McNemar test."
        return "Intervals and p: Student's t of ratios over the texts (Cochran 1977)."

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        paired, p_value = self.paired, formatting.format_p_value(self.paired.p_value)
        size = formatting.format_change(self.metric, abs(paired.difference)).lstrip("+")
        things = "texts" if self.metric == "bits_per_byte" else "problems"
        if paired.p_value is None:
            return (
                f"One {things[:-1]} alone cannot tell whether the difference of {size} is chance."
            )
        if not self.is_shown:
            return (
                f"These {paired.total} {things} show no difference between {self.first.name} and "
                f"{self.second.name}: {size} apart, and chance explains that (p {p_value})."
            )
        first_is_better = (paired.difference > 0) == (self.metric != "bits_per_byte")
        sides = [self.first.name, self.second.name]
        better, worse = sides if first_is_better else reversed(sides)
        return f"{better} is better than {worse} by {size} (p {p_value})."


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on all the tasks that both have."""

    first: str
    second: str
    tasks: tuple[TaskComparison, ...]
    left_out: tuple[str, ...]
    """Tasks that only one side has."""


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compare two evaluations on the problems they share.

    Args:
        first: Folder of a task or of an evaluate stage, or of a run: then its last evaluate stage.
        second: The same.

    Returns:
        One comparison per common task; every difference is first minus second.

    Raises:
        DataError: A folder has no results, or the two share no task or no problem, or a problem
            has another reference answer in the other folder.
    """
    folders, tasks = [], []
    for path in (first, second):
        folder, found = find_tasks(path.resolve())
        folders.append(folder)
        tasks.append({task.label: task for task in found})
    names = tell_apart(folders)
    if len(tasks[0]) == len(tasks[1]) == 1 and all(load_task(p) for p in (first, second)):
        # Two task folders were named one by one, so their own names need not agree.
        tasks[1] = dict(zip(tasks[0], tasks[1].values(), strict=True))
    common = [label for label in tasks[0] if label in tasks[1]]
    if not common:
        raise DataError(
            f"{first} and {second} share no task: {', '.join(tasks[0])} | {', '.join(tasks[1])}",
            hint="give the two task folders themselves to compare them all the same",
        )
    left_out = [label for side in tasks for label in side if label not in common]
    pairs = [(tasks[0][label], tasks[1][label]) for label in common]
    compared = [compare_tasks(n, pair, names) for n, pair in zip(common, pairs, strict=True)]
    return Comparison(names[0], names[1], tuple(compared), tuple(left_out))


def find_tasks(path: Path) -> tuple[Path, list[TaskFolder]]:
    """Find the finished tasks that a path means, and the task or stage folder it comes to."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", hint="give a run, a stage or a task folder")
    folder, task = path, load_task(path)
    if task:
        found = [task]
    else:
        stage = load_stage(path)
        found = list(stage.tasks)
        stages = [] if found or stage.outcome else load_run(path).evaluate_stages
        if stages:
            folder, found = stages[-1].path, list(stages[-1].tasks)
    finished = [task for task in found if task.results and (task.path / "records.jsonl").exists()]
    if not finished:
        raise DataError(
            f"{path}: no results of an evaluation in it (results.json with records.jsonl)",
            hint="finish its evaluate stage first",
        )
    return folder, finished


def tell_apart(folders: Sequence[Path]) -> list[str]:
    """Name folders by as many of their last parts as it takes, two at least.

    Raises:
        DataError: A folder is there twice.
    """
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise DataError(f"{twice}: compared with itself", hint="give different folders")
    depth = 2
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return [Path(*folder.parts[-depth:]).as_posix() for folder in folders]


def compare_tasks(
    label: str,
    tasks: Sequence[TaskFolder],
    names: Sequence[str],
    only: Collection[str] | None = None,
) -> TaskComparison:
    """Compare two evaluations of one task.

    Args:
        label: Of the task.
        tasks: The two.
        names: What to call them.
        only: Names of the problems to compare; all that both have where absent.

    Raises:
        DataError: As ``compare_runs``.
    """
    first, second = (index_records(task) for task in tasks)
    shared = [i for i in first if i in second and (only is None or i in only)]
    if not shared:
        raise DataError(
            f"{tasks[0].path} and {tasks[1].path} share no problem: their ids have nothing in "
            f"common (`{next(iter(first))}`, `{next(iter(second))}`)",
            hint="only two evaluations of the same file can be paired",
        )
    pairs = [(first[i], second[i]) for i in shared]
    _check_same(tasks, pairs)
    metric, paired = compare_pairs(pairs)
    sides = [
        _build_side(name, [pair[number] for pair in pairs], len(rows) - len(shared))
        for number, (name, rows) in enumerate(zip(names, (first, second), strict=True))
    ]
    marks = [(bool(a.get("correct")), bool(b.get("correct"))) for a, b in pairs]
    one_sided = [
        tuple(
            _build_change(names, *pair)
            for pair, mark in zip(pairs, marks, strict=True)
            if mark == m
        )
        for m in ((True, False), (False, True))
    ]
    only_first, only_second = (changes[:_MOST_CHANGES] for changes in one_sided)
    folders = tasks[0], tasks[1]
    return TaskComparison(
        label, sides[0], sides[1], metric, paired, only_first, only_second, folders
    )


def _build_side(name: str, rows: Sequence[Row], unshared: int) -> Side:
    if "nats" in rows[0]:
        found = estimate_ratio([r["nats"] for r in rows], [r["tokens"] for r in rows])
        bounds = found.interval
        interval = (math.exp(bounds[0]), math.exp(bounds[1])) if bounds else None
        value = math.exp(found.value)
        return Side(name, "perplexity", value, interval, None, len(rows), unshared)
    if "score" in rows[0]:
        found = estimate_ratio([r["score"] for r in rows], [1.0] * len(rows))
        return Side(name, "score", found.value, found.interval, None, len(rows), unshared)
    correct = sum(bool(row.get("correct")) for row in rows)
    interval = wilson_interval(correct, len(rows))
    return Side(name, "accuracy", correct / len(rows), interval, correct, len(rows), unshared)


def index_records(task: TaskFolder) -> dict[str, Row]:
    """Read a task's records by name of the problem.

    Raises:
        DataError: There are none, or a name is there twice.
    """
    rows: dict[str, Row] = {}
    for row in task.load_records():
        identity = str(row.get("id"))
        if identity in rows:
            raise DataError(f"{task.path / 'records.jsonl'}: the id `{identity}` is there twice")
        rows[identity] = row
    if not rows:
        raise DataError(f"{task.path / 'records.jsonl'}: holds no answers")
    return rows


def _check_same(tasks: Sequence[TaskFolder], pairs: Sequence[tuple[Row, Row]]) -> None:
    """Stop where one id means two problems, naming the folders."""
    try:
        check_same(pairs)
    except DataError as error:
        place = f"{tasks[0].path} and {tasks[1].path}"
        raise DataError(f"{place}: {error.args[0]}", hint=error.hint) from None


def _build_change(names: Sequence[str], first: Row, second: Row) -> Sample:
    answers = [build_answer(n, row) for n, row in zip(names, (first, second), strict=True)]
    return build_sample(first, answers)


def render_comparison(comparison: Comparison) -> str:
    """Write a comparison for the terminal.

    Args:
        comparison: From ``compare_runs``.

    Returns:
        Plain text of at most 100 columns, without a newline at the end.
    """
    parts: list[RenderableType] = []
    for task in comparison.tasks:
        parts += [*_list_parts(task), ""]
    if comparison.left_out:
        parts.append(f"Only on one side, left out: {', '.join(comparison.left_out)}")
    return to_text(*parts)


def _list_parts(task: TaskComparison) -> list[RenderableType]:
    paired = task.paired
    table = build_table(task.label, "right", task.first.metric, "95 % interval")
    if task.metric != "accuracy":
        table = build_table(task.label, "on", task.first.metric, "95 % interval")
    for side in (task.first, task.second):
        table.add_row(side.name, side.amount, side.shown, side.shown_interval)
    p_value = formatting.format_p_value(paired.p_value)
    interval = f" ({task.difference_interval})" if task.difference_interval else ""
    word = "right" if task.metric == "accuracy" else "better"
    parts: list[RenderableType] = [
        table,
        "",
        f"Difference  {task.difference}{interval}; p {p_value}",
        f"Only {task.first.name} {word}: {paired.wins}; only {task.second.name} {word}: "
        f"{paired.losses}; the same: {task.ties}",
        task.verdict,
    ]
    for side in (task.first, task.second):
        if side.unshared:
            parts.append(f"{side.unshared} problems are only in {side.name} and not compared.")
    for side, samples in ((task.first, task.only_first), (task.second, task.only_second)):
        if samples:
            changes = build_table(f"only {side.name} right", "reference", *_both(task))
            for sample in samples:
                answers = [a.answer if a.answer is not None else "–" for a in sample.answers]
                question = formatting.to_one_line(sample.question, 48)
                shown = [formatting.to_one_line(text, 16) for text in (sample.reference, *answers)]
                changes.add_row(f"{sample.identity}\n{question}", *shown)
            parts += ["", changes]
    return parts


def _both(task: TaskComparison) -> tuple[str, str]:
    return task.first.name, task.second.name
