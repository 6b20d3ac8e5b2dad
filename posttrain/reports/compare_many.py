"""Several evaluations of the same problems, each compared with the first answer by answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from rich.console import RenderableType

from posttrain.errors import DataError
from posttrain.evaluation.statistics import adjust_p_values
from posttrain.reports import formatting
from posttrain.reports.compare import (
    SIGNIFICANT,
    Side,
    TaskComparison,
    compare_tasks,
    find_tasks,
    index_records,
    tell_apart,
)
from posttrain.reports.folders import TaskFolder, load_task
from posttrain.reports.leaders import find_leader
from posttrain.reports.terminal import build_table, to_text


@dataclass(frozen=True)
class Contender:
    """An evaluation against the first one."""

    paired: TaskComparison
    """Its own minus the first's."""
    adjusted_p: float | None
    """Raised for the number of comparisons of the task; None where one text alone is compared."""

    @property
    def side(self) -> Side:
        """Its score."""
        return self.paired.first

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or that chance explains it."""
        if self.adjusted_p is None:
            return "unknown"
        if self.adjusted_p >= SIGNIFICANT:
            return "no difference shown"
        more = self.paired.paired.difference > 0
        return "better" if more == (self.paired.metric != "bits_per_byte") else "worse"


@dataclass(frozen=True)
class TaskTable:
    """All evaluations of one task."""

    label: str
    base: Side
    """The first one."""
    contenders: tuple[Contender, ...]
    folders: tuple[TaskFolder, ...]
    """Where they were read, in the order of ``sides``."""
    leader: int | None
    """Place in ``sides`` of the one that is better than every other; None where none is."""

    @property
    def metric(self) -> str:
        """Of the differences."""
        return self.contenders[0].paired.metric

    @property
    def total(self) -> int:
        """Problems that all have."""
        return self.contenders[0].paired.paired.total

    @property
    def sides(self) -> list[Side]:
        """All scores, the first one's first."""
        return [self.base, *(contender.side for contender in self.contenders)]

    @property
    def methods(self) -> str:
        """How the numbers were found."""
        return (
            f"{self.contenders[0].paired.methods} Holm: p raised for {len(self.contenders)} "
            "comparisons with the first; the intervals of the differences are each by itself."
        )


@dataclass(frozen=True)
class ManyComparison:
    """Several evaluations on all the tasks that every one has."""

    names: tuple[str, ...]
    tasks: tuple[TaskTable, ...]
    left_out: tuple[str, ...]
    """Tasks that not all have."""


def compare_many(paths: Sequence[Path]) -> ManyComparison:
    """Compare evaluations with the first one, on the problems that all of them share.

    Args:
        paths: Folders as ``compare.compare_runs`` takes them, two at least.

    Returns:
        One table per common task; every difference is a later one minus the first.

    Raises:
        DataError: As ``compare.compare_runs``.
    """
    found = [find_tasks(path.resolve()) for path in paths]
    names = tell_apart([folder for folder, _ in found])
    sides = [{task.label: task for task in tasks} for _, tasks in found]
    if all(len(side) == 1 for side in sides) and all(load_task(path) for path in paths):
        # Task folders were named one by one, so their own names need not agree.
        label = next(iter(sides[0]))
        sides = [dict.fromkeys([label], *side.values()) for side in sides]
    common = [label for label in sides[0] if all(label in side for side in sides)]
    if not common:
        raise DataError(
            "the evaluations share no task: " + " | ".join(", ".join(side) for side in sides),
            hint="give the task folders themselves to compare them all the same",
        )
    left_out = dict.fromkeys(label for side in sides for label in side if label not in common)
    tables = [_build_table(label, [side[label] for side in sides], names) for label in common]
    return ManyComparison(tuple(names), tuple(tables), tuple(left_out))


def _build_table(label: str, tasks: Sequence[TaskFolder], names: Sequence[str]) -> TaskTable:
    rows = [index_records(task) for task in tasks]
    shared = reduce(set.intersection, map(set, rows))
    if not shared:
        raise DataError(
            f"{label}: the {len(tasks)} evaluations share no problem",
            hint="only evaluations of the same file can be paired",
        )
    pairs = [
        compare_tasks(label, (task, tasks[0]), (name, names[0]), shared)
        for name, task in zip(names[1:], tasks[1:], strict=True)
    ]
    adjusted = adjust_p_values([pair.paired.p_value for pair in pairs])
    contenders = [Contender(pair, p) for pair, p in zip(pairs, adjusted, strict=True)]
    kept = [{name: side[name] for name in rows[0] if name in shared} for side in rows]
    leader = find_leader(kept, below=SIGNIFICANT)
    return TaskTable(label, pairs[0].second, tuple(contenders), tuple(tasks), leader)


def render_many(comparison: ManyComparison) -> str:
    """Write a comparison of several for the terminal.

    Args:
        comparison: From ``compare_many``.

    Returns:
        Plain text of at most 100 columns, without a newline at the end.
    """
    parts: list[RenderableType] = []
    for task in comparison.tasks:
        metric = task.base.metric
        table = build_table(task.label, metric, "95 % interval", "difference", "p (Holm)", "")
        table.add_row(task.base.name, task.base.shown, task.base.shown_interval, "", "", "first")
        for one in task.contenders:
            interval = one.paired.difference_interval
            table.add_row(
                one.side.name,
                one.side.shown,
                one.side.shown_interval,
                f"{one.paired.difference}\n{interval}" if interval else one.paired.difference,
                formatting.format_p_value(one.adjusted_p).removeprefix("= "),
                one.verdict,
            )
        parts += [table, "", f"{count_shared(task)} {task.methods}"]
        if any(side.unshared for side in task.sides):
            parts.append("Problems that not all evaluations have are in no number.")
        parts.append("")
    if comparison.left_out:
        parts.append(f"Not in all evaluations, left out: {', '.join(comparison.left_out)}")
    return to_text(*parts)


def count_shared(task: TaskTable) -> str:
    """Say on how many problems or texts a task's evaluations are compared."""
    things = "texts" if task.metric == "bits_per_byte" else "problems"
    return f"On {formatting.format_count(task.total)} {things} that all have."
