"""A run folder -> ``report.html``: one file that says what was done and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from posttrain.logs import format_duration
from posttrain.reports import accounting, data, figures, formatting, summary
from posttrain.reports.folders import Row, RunFolder, load_run
from posttrain.reports.pages import write_page
from posttrain.reports.training import build_training
from posttrain.reports.transcripts import Sample, choose_samples

REPORT_NAME = "report.html"


@dataclass(frozen=True)
class EvaluationView:
    """One task in one evaluate stage, ready to show."""

    score: summary.Score
    label: str
    errors: list[tuple[str, int]]
    results: Row
    page: str
    """Address of its own page, seen from the run's; empty where there is none."""


def build_run_report(run: Path) -> Path:
    """Write the report of a run, finished or not.

    Equal folders give equal bytes.

    Args:
        run: ``runs/<name>``.

    Returns:
        ``<run>/report.html``.

    Raises:
        DataError: The folder holds no run, or a file in it is damaged.
        PosttrainError: The folder cannot be written.
    """
    found = load_run(run)
    outcomes = summary.collect_outcomes(found)
    files, more_files = accounting.list_files(found.path, REPORT_NAME)
    views = [data.build_data_view(stage) for stage in found.training_stages]
    lineages = [(s.name, s.lineage) for s in found.stages if s.lineage]
    if found.lineage:
        lineages.insert(0, ("run", found.lineage))
    values: dict[str, Any] = {
        "run": found,
        "header": _build_header(found),
        "complete": all(stage.state == "finished" for stage in found.stages),
        "outcomes": outcomes,
        "score_rows": summary.list_score_rows(outcomes),
        "training_rows": summary.list_training_rows(found),
        "accuracy_plot": _draw_accuracies(outcomes),
        "trainings": [build_training(s, found.config) for s in found.training_stages],
        "evaluations": list(_list_evaluations(outcomes, found.path)),
        "transcripts": _list_transcripts(outcomes),
        "data": [view for view in views if view],
        "environment": list(accounting.flatten(found.environment)),
        "closings": [
            (stage.name, list(accounting.flatten(stage.summary)))
            for stage in found.stages
            if stage.kind in ("merge", "quantize", "extend-tokenizer", "pairs") and stage.summary
        ],
        "lineages": [(name, list(accounting.flatten(facts))) for name, facts in lineages],
        "recipe": json.dumps(found.config, indent=2, ensure_ascii=False) if found.config else "",
        "files": files,
        "more_files": more_files,
    }
    return write_page(found.path / REPORT_NAME, "report.html.jinja", values)


def _build_header(run: RunFolder) -> accounting.Pairs:
    """Facts below the title: what, on what, how long, when."""
    compute = run.environment.get("compute") or {}
    hardware = [compute.get("device"), compute.get("precision")]
    complete = all(stage.state == "finished" for stage in run.stages)
    seconds = sum(stage.outcome.get("seconds") or 0 for stage in run.stages) if complete else 0
    ends = [s.outcome.get("finished_at") for s in run.stages if complete]
    tuning = {"full": "all weights", "lora": "low-rank adapters (LoRA)"}
    tuned = str(run.config.get("tuning", "")) if run.training_stages else ""
    pairs = [
        ("Model", run.model),
        ("Trained", tuning.get(tuned, tuned)),
        ("Computed on", ", ".join(str(part) for part in hardware if part)),
        ("Time", format_duration(seconds) if seconds else ""),
        ("Finished", formatting.format_time(ends[-1]) if ends and ends[-1] else ""),
    ]
    return [(name, text) for name, text in pairs if text]


def _draw_accuracies(outcomes: list[summary.TaskOutcome]) -> Markup | None:
    bars = []
    for outcome in outcomes:
        for number, score in enumerate(outcome.scores):
            label = f"{outcome.label}: {score.stage}" if len(outcomes) > 1 else score.stage
            series = 1 if score is outcome.last and number else 0
            if formatting.is_share(score.metric) and score.interval:
                bars.append(figures.Bar(label, score.value, score.interval, series))
    title, wide = "Accuracy with 95 % intervals", len(outcomes) > 1
    return figures.draw_bars(title, bars, wide=wide) if bars else None


def _list_evaluations(outcomes: list[summary.TaskOutcome], run: Path) -> Iterator[EvaluationView]:
    for outcome in outcomes:
        for score in outcome.scores:
            results = score.task.results
            found = results.get("errors") or {}
            errors = sorted(((_words(k), n) for k, n in found.items()), key=lambda e: -e[1])
            page = score.task.path / REPORT_NAME
            address = page.relative_to(run).as_posix() if page.is_file() else ""
            yield EvaluationView(score, outcome.label, errors, results, address)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _list_transcripts(outcomes: list[summary.TaskOutcome]) -> list[tuple[str, list[Sample]]]:
    found = []
    for outcome in outcomes:
        if outcome.last.metric != "accuracy":
            continue  # nothing was answered
        shown = [score for score in (outcome.before, outcome.last) if score]
        unclear = len({score.role for score in shown}) < len(shown)
        sides = [(s.stage if unclear else s.role or s.stage, s.task) for s in shown]
        if samples := choose_samples(outcome.last.task, sides):
            found.append((outcome.label, samples))
    return found
