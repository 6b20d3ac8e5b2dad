"""A run folder -> ``report.html``: one file that says what was done and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from posttrain.logs import format_bytes, format_duration
from posttrain.reports import accounting, figures, formatting, summary
from posttrain.reports.folders import Row, RunFolder, StageFolder, load_run
from posttrain.reports.pages import write_page
from posttrain.reports.transcripts import Sample, choose_samples

REPORT_NAME = "report.html"
_PLOTS = (
    ("Loss (nats per token)", "loss", "validation_loss", False),
    ("Token accuracy", "token_accuracy", "validation_token_accuracy", True),
    ("Learning rate", "learning_rate", "", False),
    ("Gradient norm", "grad_norm", "", False),
)


@dataclass(frozen=True)
class TrainingView:
    """One training stage, ready to show."""

    stage: StageFolder
    facts: accounting.Pairs
    plots: list[Markup]
    thinned: bool
    """Whether a plot shows means and ranges of neighbours instead of every point."""


@dataclass(frozen=True)
class EvaluationView:
    """One task in one evaluate stage, ready to show."""

    score: summary.Score
    label: str
    errors: list[tuple[str, int]]
    results: Row


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
    views = [accounting.build_data_view(stage) for stage in found.training_stages]
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
        "trainings": [_build_training(s, found.config) for s in found.training_stages],
        "evaluations": list(_list_evaluations(outcomes)),
        "transcripts": _list_transcripts(outcomes),
        "data": [view for view in views if view],
        "environment": list(accounting.flatten(found.environment)),
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


def _build_training(stage: StageFolder, config: Row) -> TrainingView:
    plots = []
    for title, key, validation_key, percent in _PLOTS:
        names = [("training", key), ("validation", validation_key)]
        lines = [
            figures.Line(name, *stage.metrics.series(k), sparse=name == "validation")
            for name, k in names
            if k and stage.metrics.series(k)[0]
        ]
        if lines:
            from_zero = key in ("learning_rate", "grad_norm")
            plots.append(figures.draw_lines(title, lines, percent=percent, from_zero=from_zero))
    thinned = len(stage.metrics.training) > figures.MOST_POINTS
    return TrainingView(stage, list(_list_training_facts(stage, config)), plots, thinned)


def _list_training_facts(stage: StageFolder, config: Row) -> Iterator[tuple[str, str]]:
    """Name and text of what is worth knowing of a training stage, as far as it is known."""
    last = stage.metrics.training[-1] if stage.metrics.training else {}
    closing = stage.summary
    if steps := closing.get("steps") or last.get("step"):
        yield "Steps", formatting.format_count(steps)
    _, losses = stage.metrics.series("loss")
    first_loss = closing.get("loss_first") or (losses[0] if losses else None)
    last_loss = closing.get("loss_last") or (losses[-1] if losses else None)
    if first_loss is not None and last_loss is not None:
        yield "Loss, first to last", f"{first_loss:.3f} → {last_loss:.3f}"
    steps_seen, validation = stage.metrics.series("validation_loss")
    if validation:
        best = min(range(len(validation)), key=lambda i: validation[i])
        yield "Best validation loss", f"{validation[best]:.3f} at step {steps_seen[best]:.0f}"
    for name, key in (("Tokens", "tokens"), ("Supervised tokens", "trained_tokens")):
        if count := closing.get(key) or last.get(key):
            yield name, formatting.format_count(count)
    if speed := closing.get("tokens_per_second") or last.get("tokens_per_second"):
        yield "Tokens per second", formatting.format_count(speed)
    trainable, whole = closing.get("trainable_parameters"), closing.get("total_parameters")
    if trainable and whole:
        share = formatting.format_percent(trainable / whole)
        yield "Trainable parameters", f"{trainable:,} of {whole:,} ({share})"
    if closing.get("weight_delta") is not None:
        yield "Change of the weights", formatting.format_number(closing["weight_delta"])
    if peak := stage.outcome.get("peak_memory_bytes"):
        yield "Peak memory", format_bytes(peak)
    if seconds := stage.outcome.get("seconds") or last.get("seconds"):
        yield "Time", format_duration(seconds)
    yield from _list_settings(stage.settings, config)


def _list_settings(settings: Row, config: Row) -> Iterator[tuple[str, str]]:
    if settings.get("learning_rate") is not None:
        schedule = settings.get("schedule", "")
        yield "Learning rate", f"{settings['learning_rate']:g} {schedule}".strip()
    if batch := settings.get("batch_tokens"):
        yield "Batch", f"{batch:,} tokens × {settings.get('accumulate', 1)}"
    if settings and not settings.get("steps") and settings.get("epochs"):
        yield "Epochs", f"{settings['epochs']:g}"
    if settings and config.get("tuning") == "lora":
        yield "LoRA rank", str((config.get("lora") or {}).get("rank", ""))


def _list_evaluations(outcomes: list[summary.TaskOutcome]) -> Iterator[EvaluationView]:
    for outcome in outcomes:
        for score in outcome.scores:
            results = score.task.results
            found = results.get("errors") or {}
            errors = sorted(((_words(k), n) for k, n in found.items()), key=lambda e: -e[1])
            yield EvaluationView(score, outcome.label, errors, results)


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
