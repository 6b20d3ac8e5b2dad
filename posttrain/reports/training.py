"""A training stage as a page shows it: its facts, and a plot of every measure that it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from posttrain.config.train import ONLINE_STAGES
from posttrain.logs import format_bytes, format_duration
from posttrain.reports import accounting, figures, formatting
from posttrain.reports.folders import Row, StageFolder

# Title, training metric, validation metric, whether it is a share of 1.
_PLOTS = (
    ("Loss", "loss", "validation_loss", False),
    ("Perplexity", "perplexity", "validation_perplexity", False),
    ("Reward", "reward", "validation_reward", False),
    ("Right answers", "reward_answer", "validation_accuracy", True),
    ("Answers in form", "reward_format", "", True),
    ("Score of the reward model", "reward_model", "", False),
    ("Token accuracy", "token_accuracy", "validation_token_accuracy", True),
    ("Pair accuracy", "pair_accuracy", "validation_pair_accuracy", True),
    ("Margin of the better answer", "margin", "validation_margin", False),
    ("Tokens per answer", "completion_tokens", "", False),
    ("Unfinished answers", "unfinished", "", True),
    ("Groups whose answers are worth the same", "equal_groups", "", True),
    ("Entropy (nats per token)", "entropy", "", False),
    ("Clipped tokens", "clipped_share", "", True),
    ("Distance from the reference (nats per token)", "reference_kl", "", False),
    ("Variance that the value head explains", "explained_variance", "", True),
    ("Value loss", "value_loss", "", False),
    ("Learning rate", "learning_rate", "", False),
    ("Gradient norm", "grad_norm", "", False),
    ("Model FLOPs utilization", "mfu", "", True),
    ("GPU at work", "gpu_utilization", "", True),
)
_PER_TOKEN = ("pretrain", "mlm", "sft", "training")
_FROM_ZERO = ("learning_rate", "grad_norm", "completion_tokens", "mfu", "gpu_utilization")


@dataclass(frozen=True)
class TrainingView:
    """One training stage, ready to show."""

    stage: StageFolder
    facts: accounting.Pairs
    plots: list[Markup]
    thinned: bool
    """Whether a plot shows means and ranges of neighbours instead of every point."""


def build_training(stage: StageFolder, config: Row) -> TrainingView:
    """Prepare a training stage, finished or not.

    Args:
        stage: The stage.
        config: The recipe.
    """
    plots = []
    for title, key, validation_key, percent in _PLOTS:
        names = [("training", key), ("validation", validation_key)]
        lines = [
            figures.Line(name, *stage.metrics.series(k), sparse=name == "validation")
            for name, k in names
            if k and stage.metrics.series(k)[0]
        ]
        if lines:
            unit = " (nats per token)" if key == "loss" and stage.kind in _PER_TOKEN else ""
            zero = key in _FROM_ZERO
            plots.append(figures.draw_lines(title + unit, lines, percent=percent, from_zero=zero))
    for key in _list_task_scores(stage):
        line = figures.Line("in training", *stage.metrics.series(key), sparse=True)
        percent = key.endswith("/accuracy")
        plots.append(figures.draw_lines(f"Task {key}", [line], percent=percent, from_zero=percent))
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
    if first_loss is not None and last_loss is not None and stage.kind not in ONLINE_STAGES:
        yield "Loss, first to last", f"{first_loss:.3f} → {last_loss:.3f}"
    steps_seen, validation = stage.metrics.series("validation_loss")
    if validation:
        best = min(range(len(validation)), key=lambda i: validation[i])
        yield "Best validation loss", f"{validation[best]:.3f} at step {steps_seen[best]:.0f}"
    yield from _list_measures(stage)
    if reason := closing.get("stopped_early"):
        yield "Stopped early", str(reason).removeprefix("stopped early ")
    if skipped := closing.get("skipped_steps"):
        yield "Steps passed over", formatting.format_count(skipped)
    for name, key in (("Tokens", "tokens"), ("Supervised tokens", "trained_tokens")):
        if count := closing.get(key) or last.get(key):
            yield name, formatting.format_count(count)
    if speed := closing.get("tokens_per_second") or last.get("tokens_per_second"):
        yield "Tokens per second", formatting.format_count(speed)
    _, shares = stage.metrics.series("mfu")
    if shares:
        yield "Model FLOPs utilization, median", formatting.format_percent(median(shares))
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


def _list_measures(stage: StageFolder) -> Iterator[tuple[str, str]]:
    """Name and text of what a method is judged by, where it has more than a loss."""
    _, rewards = stage.metrics.series("reward")
    if rewards:
        yield "Reward, first to last", f"{rewards[0]:.3f} → {rewards[-1]:.3f}"
    for name, key, percent in _MEASURES:
        _, values = stage.metrics.series(key)
        if values:
            text = formatting.format_percent(values[-1]) if percent else f"{values[-1]:.3f}"
            yield name, text
    for key in _list_task_scores(stage):
        yield f"{key}, last in training", _describe_score(stage, key)


def _list_task_scores(stage: StageFolder) -> list[str]:
    """Scores of tasks that the model was measured on in training, as ``gsm8k/accuracy``."""
    keys = dict.fromkeys(key for line in stage.metrics.validation for key in line)
    return [key for key in keys if key.endswith(("/accuracy", "/perplexity"))]


def _describe_score(stage: StageFolder, key: str) -> str:
    metric = key.rpartition("/")[2]
    last = [line for line in stage.metrics.validation if key in line][-1]
    bounds = [last[name] for name in (f"{key}_low", f"{key}_high") if name in last]
    interval = formatting.format_score_interval(metric, bounds or None)
    return f"{formatting.format_score(metric, last[key])} ({interval})"


_MEASURES = (
    ("Validation perplexity", "validation_perplexity", False),
    ("Validation accuracy", "validation_accuracy", True),
    ("Validation reward", "validation_reward", False),
    ("Validation pair accuracy", "validation_pair_accuracy", True),
)


def _list_settings(settings: Row, config: Row) -> Iterator[tuple[str, str]]:
    if settings.get("learning_rate") is not None:
        schedule = settings.get("schedule", "")
        yield "Learning rate", f"{settings['learning_rate']:g} {schedule}".strip()
    if batch := settings.get("batch_tokens"):
        size = "as fits" if batch == "auto" else f"{batch:,} tokens"
        yield "Batch", f"{size} × {settings.get('accumulate', 1)}"
    if settings and not settings.get("steps") and settings.get("epochs"):
        yield "Epochs", f"{settings['epochs']:g}"
    if settings and config.get("tuning") == "lora":
        yield "LoRA rank", str((config.get("lora") or {}).get("rank", ""))
