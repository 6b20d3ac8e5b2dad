"""The numbers a run is judged by, taken together from its stages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from posttrain.config.train import ONLINE_STAGES
from posttrain.errors import DataError
from posttrain.evaluation.comparisons import compare_records
from posttrain.evaluation.export import describe_unscored
from posttrain.evaluation.statistics import wilson_interval
from posttrain.logs import format_bytes, format_duration
from posttrain.reports import formatting
from posttrain.reports.folders import Row, RunFolder, StageFolder, TaskFolder

_SHARES = ("accuracy", "all_rules_pass_share")
"""Metrics that are a share of problems."""
_TESTS = {"mcnemar": "exact McNemar", "sign_flips": "signs flipped", "t": "paired t"}


@dataclass(frozen=True)
class Score:
    """Result of one task in one evaluate stage."""

    task: TaskFolder
    stage: str
    role: str
    """``base`` before any training, ``tuned`` after it; empty in a run that trains nothing."""
    metric: str
    value: float
    interval: tuple[float, float] | None
    """95 %; None where a single document gives none."""
    problems: int
    correct: int | None
    """None where the metric is no share of right answers."""
    unscored: str = ""
    """How many answers have no verdict, and why; empty where all have one."""

    @property
    def shown(self) -> str:
        """The value by itself."""
        return formatting.format_score(self.metric, self.value)

    @property
    def shown_interval(self) -> str:
        """The interval by itself; empty where there is none."""
        return formatting.format_score_interval(self.metric, self.interval)

    @property
    def text(self) -> str:
        """Value with its interval, and what has no verdict."""
        text = f"{self.shown} ({self.shown_interval})" if self.interval else self.shown
        return f"{text}; {self.unscored}" if self.unscored else text

    @property
    def amount(self) -> str:
        """On how much it was measured, and how much of it was right."""
        count = formatting.format_count(self.problems)
        if self.correct is None:
            return f"{count} documents"
        return f"{formatting.format_count(self.correct)} of {count}"


@dataclass(frozen=True)
class Difference:
    """Paired difference of the last score to the one it is compared with."""

    metric: str
    """``accuracy``, or ``bits_per_byte`` where texts are foretold."""
    value: float
    interval: tuple[float, float] | None
    p_value: float | None
    wins: int
    losses: int
    total: int
    test: str

    @property
    def shown(self) -> str:
        """The difference by itself."""
        return formatting.format_change(self.metric, self.value)

    @property
    def shown_interval(self) -> str:
        """The interval by itself; empty where there is none."""
        return formatting.format_change_interval(self.metric, self.interval)

    @property
    def text(self) -> str:
        """Difference with its interval."""
        return f"{self.shown} ({self.shown_interval})" if self.interval else self.shown

    @property
    def direction(self) -> str:
        """``better``, ``worse``, or ``same`` where chance explains it."""
        if self.p_value is None or self.p_value >= 0.05:
            return "same"
        return "better" if (self.value > 0) == (self.metric != "bits_per_byte") else "worse"


@dataclass(frozen=True)
class TaskOutcome:
    """One task over all evaluate stages of a run."""

    label: str
    scores: tuple[Score, ...]
    before: Score | None
    """What the last score is compared with."""
    difference: Difference | None

    @property
    def last(self) -> Score:
        """The latest model's score."""
        return self.scores[-1]


@dataclass(frozen=True)
class ResultRow:
    """A line of the result table."""

    label: str
    cells: tuple[str, ...]
    """One per task; one in all where the line is about training."""


def collect_outcomes(run: RunFolder) -> list[TaskOutcome]:
    """Gather the scores of every task of a run, in the order of the recipe."""
    scores: dict[str, list[Score]] = {}
    role = "base" if any(stage.is_training for stage in run.stages) else ""
    for stage in run.stages:
        role = "tuned" if stage.is_training else role
        measured = "base" if role and stage.settings.get("model_from") == "base" else role
        for task in stage.tasks:
            # Where nothing could be scored there is no number; the task's own page says so.
            if task.is_told and task.results.get("value", 0) is not None:
                scores.setdefault(task.label, []).append(_build_score(task, stage, measured))
    return [_build_outcome(label, found) for label, found in scores.items()]


def _build_score(task: TaskFolder, stage: StageFolder, role: str) -> Score:
    results = task.results
    metric = str(results.get("metric", "accuracy"))
    try:
        problems = int(results["problems"])
        correct = int(results["correct"]) if metric in _SHARES else None
        if correct is not None:
            # Not correct / problems: a problem may have several samples.
            value = float(results.get("value", correct / max(problems, 1)))
            bounds = results.get("interval") or wilson_interval(correct, problems)
        else:
            value, bounds = float(results["value"]), results.get("interval")
        interval = _read_interval(bounds)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{task.path / 'results.json'}: not the results of an evaluation: {error!r}"
        ) from error
    unscored = describe_unscored(results)
    return Score(task, stage.name, role, metric, value, interval, problems, correct, unscored)


def _read_interval(bounds: Any) -> tuple[float, float] | None:
    if bounds is None:
        return None
    low, high = bounds
    return float(low), float(high)


def _build_outcome(label: str, scores: list[Score]) -> TaskOutcome:
    last, earlier = scores[-1], scores[:-1]
    stated = last.task.results.get("comparison")
    if stated:
        before = next((s for s in earlier if s.stage == stated.get("other")), None)
        return TaskOutcome(label, tuple(scores), before, _read_difference(last.task, stated))
    first = earlier[0] if earlier else None
    found = _pair(last.task, first.task) if first else None
    return TaskOutcome(label, tuple(scores), first, found)


def _read_difference(task: TaskFolder, stated: Row) -> Difference:
    try:
        metric = str(stated.get("metric", "accuracy"))
        return Difference(
            metric=metric,
            value=float(stated["difference"]),
            interval=_read_interval(stated["interval"]),
            p_value=None if stated["p_value"] is None else float(stated["p_value"]),
            wins=int(stated["wins"]),
            losses=int(stated["losses"]),
            total=int(stated["total"]),
            test=str(stated.get("test") or ("mcnemar" if metric == "accuracy" else "t")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{task.path / 'results.json'}: not a comparison of two evaluations: {error!r}"
        ) from error


def _pair(last: TaskFolder, first: TaskFolder) -> Difference | None:
    """Compare two tasks' answers, where both kept them for the same problems."""
    sides = [t.load_records() for t in (last, first)]
    names = [{str(r.get("id")) for r in side} for side in sides]
    if not sides[0] or names[0] != names[1]:
        return None
    return _read_difference(last, compare_records(*sides))


def list_score_rows(outcomes: list[TaskOutcome]) -> list[ResultRow]:
    """Lines about scores, with a cell per task; empty cells where a task lacks the number."""
    rows: dict[str, dict[str, str]] = {}
    for outcome in outcomes:
        shown = [s for s in (outcome.before, outcome.last) if s]
        for score in shown:
            rows.setdefault(_score_label(score, shown), {})[outcome.label] = score.text
        if outcome.difference:
            for label, text in _difference_lines(outcome.difference):
                rows.setdefault(label, {})[outcome.label] = text
    labels = [outcome.label for outcome in outcomes]
    ordered = sorted(rows, key=_row_rank)
    return [ResultRow(n, tuple(rows[n].get(label, "") for label in labels)) for n in ordered]


def _score_label(score: Score, shown: list[Score]) -> str:
    unclear = len({s.role for s in shown}) < len(shown)
    name = score.stage if unclear else score.role
    metric = score.metric.replace("_", " ").capitalize()
    return f"{metric}, {name}" if name else metric


def _difference_lines(difference: Difference) -> Iterable[tuple[str, str]]:
    yield "Paired difference", difference.text
    wins, losses, total = difference.wins, difference.losses, difference.total
    p_value = formatting.format_p_value(difference.p_value).removeprefix("= ")
    test = _TESTS.get(difference.test, difference.test)
    if difference.test == "mcnemar":
        yield f"p value, {test}", f"{p_value}; {wins} gained, {losses} lost of {total}"
    else:
        yield f"p value, {test}", f"{p_value}; {wins} better, {losses} worse of {total}"


def _row_rank(label: str) -> tuple[int, str, bool]:
    """Scores before differences before p values; the base model's score first."""
    last = ("Paired difference", "p value")
    kind = next((i for i, start in enumerate(last, 1) if label.startswith(start)), 0)
    return kind, "" if kind else label.partition(",")[0], not label.endswith(", base")


def list_training_rows(run: RunFolder) -> list[ResultRow]:
    """Lines about speed, amount, memory and time, over all training stages that have begun."""
    stages = run.training_stages
    totals = [_stage_totals(stage) for stage in stages]
    seconds = _sum(total.get("seconds") for total in totals)
    peaks = [s.outcome.get("peak_memory_bytes") or 0 for s in stages or run.stages]
    whole = _sum(s.outcome.get("seconds") or _stage_totals(s).get("seconds") for s in run.stages)
    unfinished = any(stage.state == "unfinished" for stage in stages)
    note = " so far" if unfinished else ""
    trained = _sum(total.get("trained_tokens") for total in totals)
    rows = [
        ("Loss, first to last", _losses(stages)),
        ("Reward, first to last", _rewards(stages)),
        ("Tokens per second", _speed(totals)),
        ("Supervised tokens", trained and formatting.format_count(trained) + note),
        ("Peak memory", max(peaks, default=0) and format_bytes(max(peaks))),
        ("Training time", seconds and format_duration(seconds) + note),
        ("Total time", whole and format_duration(whole) + note),
    ]
    return [ResultRow(label, (text,)) for label, text in rows if text]


def _stage_totals(stage: StageFolder) -> Row:
    """Closing numbers of a stage, or those of its last logged step while it is unfinished."""
    if stage.outcome:
        return {**stage.summary, "seconds": stage.outcome.get("seconds")}
    return stage.metrics.training[-1] if stage.metrics.training else {}


def _losses(stages: list[StageFolder]) -> str:
    """Write where the training loss began and ended; of several stages the last one's.

    That of online methods is left out: advantages average to 0, and so does it.
    """
    totals = [_stage_totals(stage) for stage in stages if stage.kind not in ONLINE_STAGES]
    known = [total for total in totals if total.get("loss_first") and total.get("loss_last")]
    if not known:
        return ""
    return f"{known[-1]['loss_first']:.3f} to {known[-1]['loss_last']:.3f}"


def _rewards(stages: list[StageFolder]) -> str:
    """Write where the reward began and ended; of several stages the last one's."""
    courses = [values for stage in stages if (values := stage.metrics.series("reward")[1])]
    return f"{courses[-1][0]:.3f} to {courses[-1][-1]:.3f}" if courses else ""


def _speed(totals: list[Row]) -> str:
    """Write the tokens per second; of several stages those of the last one."""
    known = [total for total in totals if total.get("tokens_per_second")]
    if not known:
        return ""
    text = formatting.format_count(known[-1]["tokens_per_second"])
    supervised = known[-1].get("trained_tokens_per_second")
    return text + (f" ({formatting.format_count(supervised)} supervised)" if supervised else "")


def _sum(values: Iterable[Any]) -> float:
    return float(sum(value for value in values if value))
