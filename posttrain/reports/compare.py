"""Evaluations of the same problems, compared answer by answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from posttrain.errors import DataError
from posttrain.evaluation.comparisons import (
    Answered,
    Pair,
    compare_pairs,
    estimate_side,
    group_samples,
    is_scored,
)
from posttrain.evaluation.statistics import LEVEL, RatioEstimate, estimate_ratio
from posttrain.reports import formatting
from posttrain.reports.folders import TaskFolder, load_run, load_stage, load_task
from posttrain.reports.terminal import build_table, to_text
from posttrain.reports.transcripts import Sample, build_answer, build_sample
from posttrain.reports.verdicts import Side, TaskComparison, describe_part

_MOST_CHANGES = 5


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on all the tasks that both have."""

    first: str
    second: str
    tasks: tuple[TaskComparison, ...]
    left_out: tuple[str, ...]
    """Tasks that only one side has."""

    def to_json(self) -> dict[str, Any]:
        """Return every number, without the answers."""
        return {
            "first": self.first,
            "second": self.second,
            "left_out": list(self.left_out),
            "tasks": [task.to_json() for task in self.tasks],
        }


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
    level: float = LEVEL,
) -> TaskComparison:
    """Compare two evaluations of one task.

    Args:
        label: Of the task.
        tasks: The two.
        names: What to call them.
        only: Names of the problems to compare; all that both have where absent.
        level: Of the differences' intervals.

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
    try:
        found = compare_pairs(pairs, level)
    except DataError as error:
        place = f"{tasks[0].path} and {tasks[1].path}"
        raise DataError(f"{place}: {error.args[0]}", hint=error.hint) from None
    scored = [pair for pair in pairs if is_scored(pair)]
    sides = [
        _build_side(
            name,
            [pair[number] for pair in scored],
            unshared=len(answered) - len(shared),
            unscored=sum(len(pair[number].records) - pair[number].count() for pair in pairs),
        )
        for number, (name, answered) in enumerate(zip(names, (first, second), strict=True))
    ]
    samples = [_choose_changes(names, scored, winner) for winner in (0, 1)]
    folders = tasks[0], tasks[1]
    return TaskComparison(label, sides[0], sides[1], found, samples[0], samples[1], folders)


def _build_side(name: str, answered: Sequence[Answered], *, unshared: int, unscored: int) -> Side:
    total, rows = len(answered), [side.first for side in answered]
    if "nats" in rows[0]:
        found = estimate_ratio([r["nats"] for r in rows], [r["tokens"] for r in rows])
        bounds = found.interval
        interval = (math.exp(bounds[0]), math.exp(bounds[1])) if bounds else None
        value = math.exp(found.value)
        return Side(name, "perplexity", value, interval, None, total, total, unshared, 0)
    found = estimate_side(answered)
    samples = sum(side.count() for side in answered)
    metric, correct = "score", None
    if "score" not in rows[0]:
        metric = "accuracy"
        correct = sum(bool(r.get("correct")) for side in answered for r in side.records)
    return Side(
        name, metric, found.value, found.interval, correct, total, samples, unshared, unscored
    )


def index_records(task: TaskFolder) -> dict[str, Answered]:
    """Read a task's answers by name of the problem.

    Raises:
        DataError: There are none, or an answer is there twice.
    """
    place = task.path / "records.jsonl"
    found = group_samples(task.load_records(), str(place))
    if not found:
        raise DataError(f"{place}: holds no answers")
    return found


def _choose_changes(names: Sequence[str], pairs: Sequence[Pair], winner: int) -> tuple[Sample, ...]:
    """Take the first problems on which one side is right more often."""
    changes: list[Sample] = []
    for pair in pairs:
        values = [side.mean("correct") or 0.0 for side in pair]
        if values[winner] > values[1 - winner] and len(changes) < _MOST_CHANGES:
            # Of several samples, one that shows the difference.
            shown = [
                next(r for r in side.records if bool(r.get("correct")) == (number == winner))
                for number, side in enumerate(pair)
            ]
            answers = [build_answer(n, dict(row)) for n, row in zip(names, shown, strict=True)]
            changes.append(build_sample(dict(pair[0].first), answers))
    return tuple(changes)


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
    parts: list[RenderableType] = [
        table,
        "",
        f"First minus second  {task.difference}{interval}; p {p_value}",
        f"Only {task.first.name} {task.ahead}: {paired.wins}; only {task.second.name} "
        f"{task.ahead}: {paired.losses}; the same: {task.ties}",
        task.verdict,
        task.methods,
        *([task.strict] if task.strict else []),
        *task.notes,
        *_list_groups(task),
    ]
    for side, samples in ((task.first, task.only_first), (task.second, task.only_second)):
        if samples:
            changes = build_table(f"only {side.name} {task.ahead}", "reference", *_both(task))
            for sample in samples:
                answers = [a.answer if a.answer is not None else "–" for a in sample.answers]
                question = formatting.to_one_line(sample.question, 48)
                shown = [formatting.to_one_line(text, 16) for text in (sample.reference, *answers)]
                changes.add_row(f"{sample.identity}\n{question}", *shown)
            parts += ["", changes]
    return parts


def _list_groups(task: TaskComparison) -> list[RenderableType]:
    """Give each group a table with a row per value."""
    tables: list[RenderableType] = []
    for group, values in task.found.groups.items():
        table = build_table(f"by {group}", "problems", *_both(task), "first minus second; p (Holm)")
        for value, part in values.items():
            shares = [_show_share(side) for side in (part.first, part.second)]
            count = formatting.format_count(part.paired.total)
            table.add_row(formatting.to_one_line(value, 24), count, *shares, describe_part(part))
        tables += ["", table]
    return tables


def _show_share(found: RatioEstimate) -> str:
    interval = formatting.format_score_interval("accuracy", found.interval)
    return f"{formatting.format_percent(found.value)}\n{interval}"


def _both(task: TaskComparison) -> tuple[str, str]:
    return task.first.name, task.second.name
