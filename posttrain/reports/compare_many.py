"""Several evaluations of the same problems, each compared with the first answer by answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from posttrain.errors import DataError
from posttrain.evaluation.comparisons import is_scored
from posttrain.evaluation.statistics import RatioEstimate, adjust_p_values, simultaneous_level
from posttrain.reports import formatting
from posttrain.reports.compare import compare_tasks, find_tasks, index_records, tell_apart
from posttrain.reports.folders import TaskFolder, load_task
from posttrain.reports.leaders import find_leader
from posttrain.reports.terminal import build_table, to_text
from posttrain.reports.verdicts import SIGNIFICANT, Side, TaskComparison

_BETTER, _WORSE = "▲", "▼"


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

    def to_json(self) -> dict[str, Any]:
        """Return every number; ``first`` is itself, ``second`` the first evaluation."""
        return {**self.paired.to_json(), "adjusted_p": self.adjusted_p, "verdict": self.verdict}


@dataclass(frozen=True)
class GroupCell:
    """One evaluation's accuracy on the problems of one value of a group."""

    share: str
    interval: str
    sign: str
    """Whether it is better or worse than the first one; empty where chance explains it."""


def _build_cell(found: RatioEstimate, sign: str) -> GroupCell:
    interval = formatting.format_score_interval("accuracy", found.interval)
    return GroupCell(formatting.format_percent(found.value), interval, f" {sign}".rstrip())


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
    unscored: int
    """Shared problems that one of them has no verdict of; they are in no number."""

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
    def groups(self) -> dict[str, dict[str, tuple[int, list[GroupCell]]]]:
        """By name and value of a group: how many problems, and a cell per evaluation."""
        found = [one.paired.found.groups for one in self.contenders]
        # Records that were graded before a group was made lack it.
        return {
            name: {value: self._row(name, value) for value in values}
            for name, values in found[0].items()
            if all(side.get(name, {}).keys() == values.keys() for side in found)
        }

    def _row(self, name: str, value: str) -> tuple[int, list[GroupCell]]:
        parts = [one.paired.found.groups[name][value] for one in self.contenders]
        cells = [_build_cell(parts[0].second, "")]
        for part in parts:
            is_shown = part.adjusted_p is not None and part.adjusted_p < SIGNIFICANT
            sign = _BETTER if part.paired.difference > 0 else _WORSE
            cells.append(_build_cell(part.first, sign if is_shown else ""))
        return parts[0].paired.total, cells

    @property
    def methods(self) -> str:
        """How the numbers were found."""
        paired = self.contenders[0].paired
        ways = {
            "mcnemar": "Intervals: Wilson, of differences Newcombe 1998; p: exact McNemar test",
            "sign_flips": "Intervals: of differences bootstrap over problems; p: signs flipped at "
            "random",
            "t": "Intervals and p: Student's t of ratios over the texts",
        }
        each = formatting.format_percent(paired.paired.level)
        return (
            f"{ways[paired.paired.test]}. Holm: p raised for {len(self.contenders)} "
            f"comparisons with the first; their intervals have {each} each, so "
            f"that all hold together with 95 % (Bonferroni).{self._reach}"
        )

    @property
    def _reach(self) -> str:
        found = [one.paired.paired.detectable for one in self.contenders]
        sizes = sorted(size for size in found if size is not None)
        if not sizes:
            return " The set is too small to show any difference."
        least, most = (
            formatting.format_change(self.metric, size).lstrip("+")
            for size in (sizes[0], sizes[-1])
        )
        by = "" if least == most else f" ({most} where answers differ most)"
        return f" Found 4 times in 5: differences of {least} and more{by}."


@dataclass(frozen=True)
class ManyComparison:
    """Several evaluations on all the tasks that every one has."""

    names: tuple[str, ...]
    tasks: tuple[TaskTable, ...]
    left_out: tuple[str, ...]
    """Tasks that not all have."""

    def to_json(self) -> dict[str, Any]:
        """Return every number, without the answers."""
        tasks = [
            {
                "task": task.label,
                "metric": task.metric,
                "problems": task.total,
                "unscored": task.unscored,
                "base": asdict(task.base),
                "contenders": [one.to_json() for one in task.contenders],
                "methods": task.methods,
            }
            for task in self.tasks
        ]
        return {"names": list(self.names), "left_out": list(self.left_out), "tasks": tasks}


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
    problems = [index_records(task) for task in tasks]
    shared = reduce(set.intersection, (set(answered) for answered in problems))
    if not shared:
        raise DataError(
            f"{label}: the {len(tasks)} evaluations share no problem",
            hint="only evaluations of the same file can be paired",
        )
    # What one of them has no verdict of is left out of all, so that the first has one score.
    scored = {i for i in shared if all(is_scored((p[i], p[i])) for p in problems)}
    level = simultaneous_level(len(tasks) - 1)
    pairs = [
        compare_tasks(label, (task, tasks[0]), (name, names[0]), scored or shared, level)
        for name, task in zip(names[1:], tasks[1:], strict=True)
    ]
    adjusted = adjust_p_values([pair.paired.p_value for pair in pairs])
    contenders = [
        Contender(pair, p) for pair, p in zip(_adjust_groups(pairs), adjusted, strict=True)
    ]
    kept = [{name: side[name] for name in problems[0] if name in shared} for side in problems]
    leader = find_leader(kept, below=SIGNIFICANT)
    unscored = len(shared) - len(scored)
    return TaskTable(label, pairs[0].second, tuple(contenders), tuple(tasks), leader, unscored)


def _adjust_groups(pairs: Sequence[TaskComparison]) -> list[TaskComparison]:
    """Raise p values of a group's values for all comparisons of that group, over all sides."""
    groups = [{name: dict(parts) for name, parts in pair.found.groups.items()} for pair in pairs]
    for name in dict.fromkeys(name for side in groups for name in side):
        places = [(side, value) for side in groups for value in side.get(name, {})]
        raised = adjust_p_values([side[name][value].paired.p_value for side, value in places])
        for (side, value), p_value in zip(places, raised, strict=True):
            side[name][value] = replace(side[name][value], adjusted_p=p_value)
    return [
        replace(pair, found=replace(pair.found, groups=side))
        for pair, side in zip(pairs, groups, strict=True)
    ]


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
        table = build_table(task.label, metric, "95 % interval", "minus first", "p (Holm)", "")
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
        parts += [table, "", f"{count_shared(task)} {task.methods}", *_list_groups(task)]
        if any(side.unshared for side in task.sides):
            parts.append("Problems that not all evaluations have are in no number.")
        parts.append("")
    if comparison.left_out:
        parts.append(f"Not in all evaluations, left out: {', '.join(comparison.left_out)}")
    return to_text(*parts)


def _list_groups(task: TaskTable) -> list[RenderableType]:
    """Give each group a table: a row per value, a column per evaluation."""
    tables: list[RenderableType] = []
    for name, values in task.groups.items():
        table = build_table(f"by {name}", "problems", *(side.name for side in task.sides))
        for value, (count, cells) in values.items():
            shown = [f"{cell.share}{cell.sign}\n{cell.interval}" for cell in cells]
            table.add_row(formatting.to_one_line(value, 24), formatting.format_count(count), *shown)
        tables += ["", table]
    if tables:
        tables.append(f"{_BETTER} better, {_WORSE} worse than the first: p (Holm) below 0.05.")
    return tables


def count_shared(task: TaskTable) -> str:
    """Say on how many problems or texts a task's evaluations are compared."""
    things = "texts" if task.metric == "bits_per_byte" else "problems"
    left_out = f" {task.unscored} more have no verdict from one of them." if task.unscored else ""
    return f"On {formatting.format_count(task.total)} {things} that all have.{left_out}"
