"""An evaluation's folder -> ``report.html``: the score, what it is made of, and every answer."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from posttrain.errors import DataError
from posttrain.evaluation.export import describe_template, describe_unscored
from posttrain.reports import accounting, formatting
from posttrain.reports.browser import build_browser
from posttrain.reports.folders import Row, TaskFolder, find_evaluations, load_task
from posttrain.reports.pages import write_page

_CUT_OFF = ("truncated", "unfinished")
_LAYERS = ("right", "wrong", "truncated", "unscored")
_COLOURS = {"right": 2, "wrong": 1, "truncated": 3, "unscored": 0}
# They have a place of their own on the page.
_SHOWN = {
    "task", "name", "model", "data", "settings", "metric", "value", "interval",
    "higher_is_better", "errors", "groups", "comparison", "problems", "correct", "accuracy",
    "scored", "unscored", "samples", "strict_accuracy", "strict_interval", "pass_at_k", "majority",
    "template",
}  # fmt: skip


@dataclass(frozen=True)
class GroupScore:
    """The score of the problems of one group."""

    name: str
    accuracy: float
    interval: tuple[float, float] | None
    """95 %; None where too little gives none."""
    correct: int
    scored: int
    """Answers that have a verdict."""
    address: str
    """What the page's script shows the problems by."""


@dataclass(frozen=True)
class Lengths:
    """How long answers of one verdict are, in tokens."""

    verdict: str
    count: int
    median: float
    mean: float
    longest: float


def build_evaluation_page(folder: Path, out: Path | None = None) -> Path:
    """Write the page of an evaluation.

    Its figures are those of ``results.json``; only lengths are counted from the records.

    Args:
        folder: Of a task, with ``results.json`` and ``records.jsonl``.
        out: File to write; ``report.html`` in the folder if not given.

    Returns:
        The file.

    Raises:
        DataError: The folder holds no finished evaluation, or a file in it is damaged.
        PosttrainError: The place cannot be written.
    """
    task = load_task(folder)
    if task is None or not task.results:
        raise DataError(
            f"{folder}: no results of an evaluation in it", hint="finish its evaluate stage first"
        )
    try:
        values = _collect(task)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{folder / 'results.json'}: not the results of an evaluation: {error!r}"
        ) from error
    return write_page(
        out or folder / "report.html", "evaluation.html.jinja", values, script="browser.js.jinja"
    )


def build_run_pages(run: Path) -> list[Path]:
    """Write the page of every finished evaluation of a run.

    Args:
        run: ``runs/<name>``, or any folder as ``find_evaluations`` takes it.

    Returns:
        The pages.

    Raises:
        DataError: A file in the folder is damaged.
        PosttrainError: The folder cannot be written.
    """
    return [build_evaluation_page(found.task.path) for found in find_evaluations(run)]


def _collect(task: TaskFolder) -> dict[str, Any]:
    results, records = task.results, task.load_records()
    metric = str(results.get("metric", "accuracy"))
    value = results["value"] if "value" in results else results["accuracy"]
    lengths = sort_lengths(records)
    errors = results.get("errors") or {}
    wrong = sum(errors.values())
    return {
        "label": results.get("name") or task.label,
        "header": _list_header(results),
        "metric": metric.replace("_", " "),
        "value": "–" if value is None else formatting.format_score(metric, value),
        "interval": formatting.format_score_interval(metric, results.get("interval")),
        "amount": _describe_amount(results, metric),
        "samplings": _list_samplings(results),
        "strict": _describe_strict(results),
        "template": _describe_template(results.get("template")),
        "share": value if formatting.is_share(metric) else None,
        "figures": _list_figures(results, nested=False),
        "more_figures": _list_figures(results, nested=True),
        "groups": [(name, list(_list_groups(name, found))) for name, found in _groups(results)],
        "errors": [(name, count, count / wrong) for name, count in _by_count(errors)],
        "lengths": [_describe_lengths(verdict, found) for verdict, found in lengths.items()],
        "length_plot": _draw_lengths(lengths),
        "comparison": list(accounting.flatten(results.get("comparison") or {})),
        "settings": list(accounting.flatten(results.get("settings") or {})),
        "browsers": [build_browser(task.label, {task.label: records})],
    }


def _list_header(results: Row) -> accounting.Pairs:
    settings = results.get("settings") or {}
    decides = {"bytes": "log-probability per byte", "none": "log-probability"}
    named = [
        ("Model", results.get("model")),
        ("Task", results.get("task")),
        ("Data", results.get("data")),
    ]
    if settings.get("method") == "likelihood":
        named.append(("Decided by", decides.get(settings.get("normalize", ""))))
    return [(n, str(v)) for n, v in named if v]


def _list_figures(results: Row, *, nested: bool) -> accounting.Pairs:
    figures = {
        name: value
        for name, value in results.items()
        if name not in _SHOWN and isinstance(value, dict | list) == nested
    }
    for name, value in figures.items():
        share = name.endswith("accuracy") and isinstance(value, float)
        figures[name] = formatting.format_percent(value) if share else _round(value)
    return list(accounting.flatten(figures))


def _round(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _round(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_round(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _describe_amount(results: Row, metric: str) -> str:
    """On how much the score was measured, and how much of it was right."""
    problems = formatting.format_count(results["problems"])
    if not formatting.is_share(metric) or results.get("correct") is None:
        return f"{problems} {'texts' if metric == 'perplexity' else 'problems'}"
    scored = results["scored" if "scored" in results else "problems"]
    counts = [formatting.format_count(number) for number in (results["correct"], scored)]
    parts = [f"{counts[0]} of {counts[1]} right"]
    if (samples := results.get("samples", 1)) > 1:
        parts.append(f"{problems} problems with {samples} answers each")
    if unscored := describe_unscored(results):
        parts.append(f"{unscored}, in no number")
    return "; ".join(parts)


def _describe_strict(results: Row) -> str:
    """Share of right answers in the form asked for; empty where no form was asked for."""
    value = results.get("strict_accuracy")
    return "" if value is None else _with_interval(value, results.get("strict_interval"))


def _describe_template(template: Row | None) -> tuple[str, bool] | None:
    """What is known of the chat template, and whether it is another one than in training."""
    if not template:
        return None
    return describe_template(template).strip("*"), template["same"] is False


def _with_interval(share: float, interval: Sequence[float] | None) -> str:
    shown = formatting.format_percent(share)
    return f"{shown} ({formatting.format_interval(interval)})" if interval else shown


def _list_samplings(results: Row) -> list[tuple[str, str, str, str]]:
    """What several samples of a problem come to: k, pass@k, majority of k, problems."""
    passing, winning = results.get("pass_at_k") or {}, results.get("majority") or {}
    return [
        (
            k,
            _with_interval(one["value"], one["interval"]),
            _with_interval(winning[k]["value"], winning[k]["interval"]),
            formatting.format_count(one["problems"]),
        )
        for k, one in passing.items()
    ]


def _groups(results: Row) -> list[tuple[str, Row]]:
    return list((results.get("groups") or {}).items())


def _list_groups(name: str, found: Row) -> Iterator[GroupScore]:
    for value, one in found.items():
        if one["accuracy"] is not None:  # as where nothing of the group could be scored
            bounds = one["interval"]
            interval = (float(bounds[0]), float(bounds[1])) if bounds else None
            counts = int(one["correct"]), int(one.get("scored", one["problems"]))
            yield GroupScore(value, one["accuracy"], interval, *counts, f"{name}:{value}")


def _by_count(errors: Mapping[str, int]) -> list[tuple[str, int]]:
    found = [(name, count) for name, count in errors.items() if count]
    return sorted(found, key=lambda error: -error[1])


def sort_lengths(records: Sequence[Row]) -> dict[str, list[float]]:
    """Sort the lengths of written answers by what became of them.

    Args:
        records: Lines of ``records.jsonl``.

    Returns:
        Verdict (``right``, ``wrong``, ``truncated``: wrong and cut off, ``unscored``) -> tokens of
        each answer; only verdicts that occur. Empty where nothing was written.
    """
    lengths: dict[str, list[float]] = {verdict: [] for verdict in _LAYERS}
    for record in records:
        tokens = record.get("completion_tokens")
        if isinstance(tokens, int | float) and "correct" in record:
            lengths[_judge(record)].append(tokens)
    written = any(map(any, lengths.values()))
    return {verdict: found for verdict, found in lengths.items() if found and written}


def _judge(record: Row) -> str:
    if record["correct"] is None:
        return "unscored"
    if record["correct"]:
        return "right"
    return "truncated" if record.get("error") in _CUT_OFF else "wrong"


def _describe_lengths(verdict: str, found: list[float]) -> Lengths:
    middle, mean = statistics.median(found), statistics.fmean(found)
    return Lengths(verdict, len(found), middle, mean, max(found))


def _draw_lengths(lengths: Mapping[str, Sequence[float]]) -> Markup | None:
    if not lengths:
        return None
    # matplotlib takes half a second to load.
    from posttrain.reports import figures

    layers = [figures.Layer(name, found, _COLOURS[name]) for name, found in lengths.items()]
    return figures.draw_counts(
        "Length of right and wrong answers", layers, axis="completion tokens", height="answers"
    )
