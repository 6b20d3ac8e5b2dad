"""Two evaluations of the same problems, compared answer by answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from rich.console import RenderableType

from posttrain.errors import DataError
from posttrain.evaluation.statistics import PairedComparison, compare_paired, wilson_interval
from posttrain.reports import formatting
from posttrain.reports.folders import Row, TaskFolder, load_run, load_stage, load_task
from posttrain.reports.pages import write_page
from posttrain.reports.terminal import build_table, to_text
from posttrain.reports.transcripts import Sample, build_answer, build_sample

_MOST_CHANGES = 5
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Side:
    """One of two evaluations, on the problems that both share."""

    name: str
    correct: int
    total: int
    unshared: int
    """Problems that only this side has; they are left out of every number."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(self.correct, self.total)


@dataclass(frozen=True)
class TaskComparison:
    """Two evaluations of one task."""

    label: str
    first: Side
    second: Side
    paired: PairedComparison
    """First minus second."""
    only_first: tuple[Sample, ...]
    """Problems that only the first one has right, five at most, in the order of the file."""
    only_second: tuple[Sample, ...]

    @property
    def ties(self) -> int:
        """Problems that both have right or both have wrong."""
        return self.paired.total - self.paired.wins - self.paired.losses

    @property
    def is_shown(self) -> bool:
        """Whether chance is an unlikely explanation of the difference."""
        return self.paired.p_value < _SIGNIFICANT

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        paired, p_value = self.paired, formatting.format_p_value(self.paired.p_value)
        size = f"{abs(100 * paired.difference):.1f} points"
        if not self.is_shown:
            return (
                f"These {paired.total} problems show no difference between {self.first.name} and "
                f"{self.second.name}: {size} apart, and chance explains that (p {p_value})."
            )
        sides = [self.first.name, self.second.name]
        better, worse = sides if paired.difference > 0 else reversed(sides)
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
        folder, found = _find_tasks(path.resolve())
        folders.append(folder)
        tasks.append({task.label: task for task in found})
    names = _tell_apart(*folders)
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
    compared = [_compare_tasks(n, pair, names) for n, pair in zip(common, pairs, strict=True)]
    return Comparison(names[0], names[1], tuple(compared), tuple(left_out))


def _find_tasks(path: Path) -> tuple[Path, list[TaskFolder]]:
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


def _tell_apart(first: Path, second: Path) -> tuple[str, str]:
    """Name two folders by as many of their last parts as it takes, two at least."""
    if first == second:
        raise DataError(f"{first}: compared with itself", hint="give two different folders")
    depth = 2
    while first.parts[-depth:] == second.parts[-depth:]:
        depth += 1
    return Path(*first.parts[-depth:]).as_posix(), Path(*second.parts[-depth:]).as_posix()


def _compare_tasks(label: str, tasks: Sequence[TaskFolder], names: Sequence[str]) -> TaskComparison:
    first, second = (_index_records(task) for task in tasks)
    shared = [identity for identity in first if identity in second]
    if not shared:
        raise DataError(
            f"{tasks[0].path} and {tasks[1].path} share no problem: their ids have nothing in "
            f"common (`{next(iter(first))}`, `{next(iter(second))}`)",
            hint="only two evaluations of the same file can be paired",
        )
    _check_references(tasks, first, second, shared)
    marks = [[bool(side[i].get("correct")) for i in shared] for side in (first, second)]
    sides = [
        Side(name, sum(right), len(shared), len(rows) - len(shared))
        for name, right, rows in zip(names, marks, (first, second), strict=True)
    ]
    changed = [i for i, a, b in zip(shared, *marks, strict=True) if a != b]
    only = [[i for i in changed if side[i].get("correct")] for side in (first, second)]
    samples = [
        tuple(_build_change(names, first[i], second[i]) for i in identities[:_MOST_CHANGES])
        for identities in only
    ]
    return TaskComparison(label, sides[0], sides[1], compare_paired(*marks), *samples)


def _index_records(task: TaskFolder) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for row in task.load_records():
        identity = str(row.get("id"))
        if identity in rows:
            raise DataError(f"{task.path / 'records.jsonl'}: the id `{identity}` is there twice")
        rows[identity] = row
    if not rows:
        raise DataError(f"{task.path / 'records.jsonl'}: holds no answers")
    return rows


def _check_references(
    tasks: Sequence[TaskFolder],
    first: Mapping[str, Row],
    second: Mapping[str, Row],
    shared: Sequence[str],
) -> None:
    """Stop where one id means two problems, as after a change of the file between two runs."""
    other = [i for i in shared if first[i].get("reference") != second[i].get("reference")]
    if other:
        raise DataError(
            f"{tasks[0].path} and {tasks[1].path}: {len(other)} of {len(shared)} shared ids have "
            f"different reference answers, the first is `{other[0]}`",
            hint="the file of problems changed in between: evaluate both on the same one",
        )


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
    table = build_table(task.label, "right", "accuracy", "95 % interval")
    for side in (task.first, task.second):
        accuracy = formatting.format_percent(side.accuracy)
        interval = formatting.format_interval(side.interval)
        table.add_row(side.name, f"{side.correct} of {side.total}", accuracy, interval)
    p_value = formatting.format_p_value(paired.p_value)
    difference = formatting.format_difference(paired.difference, paired.interval)
    parts: list[RenderableType] = [
        table,
        "",
        f"Difference  {difference}; p {p_value}",
        f"Only {task.first.name} right: {paired.wins}; only {task.second.name} right: "
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


def build_comparison_report(comparison: Comparison, out: Path) -> Path:
    """Write a comparison as one self-contained HTML file.

    Args:
        comparison: From ``compare_runs``.
        out: File to write.

    Returns:
        ``out``.

    Raises:
        PosttrainError: The place cannot be written.
    """
    plots = [_draw_task(task) for task in comparison.tasks]
    values = {"comparison": comparison, "tasks": list(zip(comparison.tasks, plots, strict=True))}
    return write_page(out, "comparison.html.jinja", values)


def _draw_task(task: TaskComparison) -> Markup:
    # matplotlib takes half a second to load, and the terminal needs none of it.
    from posttrain.reports import figures

    # A and B: the names are the user's, and a plot's font need not have their letters.
    bars = [
        figures.Bar(letter, side.accuracy, side.interval, series)
        for series, (letter, side) in enumerate(zip("AB", (task.first, task.second), strict=True))
    ]
    return figures.draw_bars("Accuracy with 95 % intervals", bars, wide=False)
