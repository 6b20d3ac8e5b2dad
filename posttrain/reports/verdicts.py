"""Two evaluations of one task: the numbers, and what they mean in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from posttrain.evaluation.comparisons import Comparison, ScoredPart
from posttrain.evaluation.statistics import PairedComparison
from posttrain.reports import formatting
from posttrain.reports.folders import TaskFolder
from posttrain.reports.transcripts import Sample

SIGNIFICANT = 0.05
_TESTS = {
    "mcnemar": "p: exact McNemar test.",
    "sign_flips": "p: signs of the differences flipped at random.",
    "t": "p: Student's t.",
}


@dataclass(frozen=True)
class Side:
    """One of two evaluations, on the problems that both have scored."""

    name: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    """95 %; None for a single text."""
    correct: int | None
    """Right samples; None where nothing is right or wrong: texts are foretold, or answers have a
    score."""
    total: int
    samples: int
    """Answers to these problems that have a verdict."""
    unshared: int
    """Problems that only this side has; they are left out of every number."""
    unscored: int
    """Answers to shared problems without a verdict; they are in no number."""

    @property
    def amount(self) -> str:
        """On how much it was measured, and how much of it was right."""
        if self.correct is None:
            return f"{self.total} {'problems' if self.metric == 'score' else 'texts'}"
        return f"{self.correct} of {self.samples}"

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
    found: Comparison
    """First minus second."""
    only_first: tuple[Sample, ...]
    """Problems that only the first one has right (or more often), five at most, in the order of
    the file."""
    only_second: tuple[Sample, ...]
    folders: tuple[TaskFolder, TaskFolder]
    """Where the two were read."""

    @property
    def metric(self) -> str:
        """Of the difference: ``accuracy``, ``bits_per_byte`` or ``score``."""
        return self.found.metric

    @property
    def paired(self) -> PairedComparison:
        """The difference over all problems."""
        return self.found.paired

    @property
    def things(self) -> str:
        """What is compared."""
        return "texts" if self.metric == "bits_per_byte" else "problems"

    @property
    def ahead(self) -> str:
        """What a side is on a problem that it wins: ``right`` or ``better``."""
        return "right" if self.paired.test == "mcnemar" else "better"

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
        paired = self.paired
        if paired.test == "t":
            return "Intervals and p: Student's t of ratios over the texts (Cochran 1977)."
        drawn = formatting.format_change_interval(self.metric, paired.bootstrap_interval)
        if paired.test == "mcnemar":
            ways = f"Wilson; of the difference: Newcombe 1998 (bootstrap: {drawn})"
        else:
            each = "Student's t" if self.metric == "score" else "Wilson of the effective number"
            ways = f"{each}; of the difference: bootstrap over problems"
        if paired.clusters:
            ways += f" in {paired.clusters} clusters"
        return f"Intervals: {ways}; {_TESTS[paired.test]}"

    @property
    def verdict(self) -> str:
        """The result in one sentence: what it means, and what this set could have shown."""
        paired, p_value = self.paired, formatting.format_p_value(self.paired.p_value)
        size = self._size(paired.difference)
        these = f"these {formatting.format_count(paired.total)} {self.things}"
        names = (self.first.name, self.second.name)
        if paired.p_value is None:
            return (
                f"One {self.things[:-1]} alone cannot tell whether the difference of {size} is "
                "chance."
            )
        if self.is_shown:
            first_is_better = (paired.difference > 0) == (self.metric != "bits_per_byte")
            better, worse = names if first_is_better else reversed(names)
            reach = f"; {these} show {self.reach}" if paired.detectable else ""
            return f"{better} is better than {worse} by {size} (p {p_value}){reach}."
        reach = f"they would show {self.reach}"
        if paired.detectable is None:
            reach = "they are too few to show any"
        elif paired.needed:
            reach += f", and {size} would take {formatting.format_count(paired.needed)} of them"
        return (
            f"{these.capitalize()} show no difference between {names[0]} and {names[1]}: {size} "
            f"apart, and chance explains that (p {p_value}); {reach}."
        )

    @property
    def reach(self) -> str:
        """What this set can show at all."""
        if self.paired.detectable is None:
            return "no difference at all"
        return f"a difference of {self._size(self.paired.detectable)} 4 times in 5"

    def _size(self, difference: float) -> str:
        return formatting.format_change(self.metric, abs(difference)).lstrip("+")

    @property
    def notes(self) -> list[str]:
        """What is in no number, one sentence each."""
        notes = [
            f"{side.unshared} {self.things} are only in {side.name} and not compared."
            for side in (self.first, self.second)
            if side.unshared
        ]
        for side in (self.first, self.second):
            if side.unscored:
                notes.append(f"{side.unscored} answers of {side.name} have no verdict.")
        if self.found.unscored:
            notes.append(
                f"{self.found.unscored} problems without a verdict on either side are left out on "
                "both."
            )
        return notes

    @property
    def strict(self) -> str:
        """The same by answers in the form asked for; empty where the records do not tell."""
        part = self.found.strict
        if part is None:
            return ""
        shares = f"{formatting.format_percent(part.first.value)} against "
        shares += formatting.format_percent(part.second.value)
        return f"Only answers in the form asked for: {shares}, {describe_part(part)}"

    def to_json(self) -> dict[str, Any]:
        """Return every number, without the answers."""
        parts = {
            group: {value: _part_to_json(part) for value, part in values.items()}
            for group, values in self.found.groups.items()
        }
        return {
            "task": self.label,
            "metric": self.metric,
            "first": asdict(self.first),
            "second": asdict(self.second),
            "difference": asdict(self.paired),
            "unscored": self.found.unscored,
            "strict": self.found.strict and _part_to_json(self.found.strict),
            "groups": parts,
            "verdict": self.verdict,
            "methods": self.methods,
        }


def describe_part(part: ScoredPart) -> str:
    """Write the difference on some of the problems."""
    interval = formatting.format_change_interval("accuracy", part.paired.interval)
    change = formatting.format_change("accuracy", part.paired.difference)
    shown = f"{change} ({interval})" if interval else change
    return f"{shown}; p {formatting.format_p_value(part.adjusted_p)}"


def _part_to_json(part: ScoredPart) -> dict[str, Any]:
    sides = {
        name: {"value": side.value, "interval": side.interval}
        for name, side in (("first", part.first), ("second", part.second))
    }
    return {**sides, "difference": asdict(part.paired), "adjusted_p": part.adjusted_p}
