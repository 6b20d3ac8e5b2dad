"""Prepare the data of a recipe's training stages, and show what the mask audit found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from posttrain.config.data import SampleDataStage
from posttrain.config.recipe import Recipe, stage_sources
from posttrain.config.train import TrainingStage
from posttrain.data.audit import AuditCheck, check_audit
from posttrain.data.prepare import PreparedData, prepare_data
from posttrain.errors import ConfigError, InterruptedRunError
from posttrain.logs import say, show
from posttrain.models.load import load_tokenizer
from posttrain.reports.data import build_data_report, render_audit
from posttrain.runs.folder import run_folder
from posttrain.runs.kinds.sample_data import sample_file
from posttrain.runs.progress import Progress, settle_sources
from posttrain.runs.run import run_recipe
from posttrain.training.data import describe_data


def prepare_recipe(recipe: Recipe, command: str) -> None:
    """Prepare the data of every training stage and say what became of each row.

    Args:
        recipe: With a training stage.
        command: What to type to go on after an interruption.

    Raises:
        PosttrainError: Unusable data, tokenizer or template; no training stage.
        InterruptedRunError: Ctrl-C or SIGTERM; data sets that are finished are kept.
    """
    say(f"tokenizer and template: {recipe.model.tokenizer or recipe.model.path}")
    try:
        for stage, data, _ in prepare_stages(recipe):
            if isinstance(data, str):
                show(f"{stage.name}: {data}")
                continue
            describe_data(data)
            show(f"{stage.name}: prepared in {data.folder}")
            show(f"{stage.name}: report {build_data_report(data.folder, stage.name)}")
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted; finished data sets are kept", hint=f"go on with: {command}"
        ) from None


def prepare_stages(recipe: Recipe) -> Iterator[tuple[Any, PreparedData | str, Any]]:
    """Yield every training stage with its prepared data and the tokenizer.

    Sample data are made. Where a stage needs what an earlier one has yet to make (a tokenizer,
    preference pairs), its place in line is said instead of data.

    Raises:
        ConfigError: The recipe has no training stage.
    """
    if not any(isinstance(stage, TrainingStage) for stage in recipe.stages):
        raise ConfigError(f"recipe `{recipe.name}`: no training stage, so nothing to prepare")
    if any(isinstance(stage, SampleDataStage) for stage in recipe.stages):
        run_recipe(recipe, "", only=("sample-data",))
    progress = Progress(recipe, run_folder(recipe))
    tokenizer = load_tokenizer(recipe.model)
    unmade = ""
    for stage in recipe.stages:
        if isinstance(stage, SampleDataStage):
            progress.files[stage.name] = sample_file(stage, progress.folder / stage.name)
        elif str(stage.stage) == "extend-tokenizer":
            unmade = stage.name
        if not isinstance(stage, TrainingStage):
            continue
        sources = [source.from_stage for source in stage_sources(stage)]
        waiting = unmade or next((n for n in sources if n and n not in progress.files), "")
        if waiting:
            yield stage, f"its data can be counted once stage `{waiting}` is done", tokenizer
            continue
        settled: Any = settle_sources(stage, progress)
        yield settled, prepare_data(settled.data, tokenizer), tokenizer


def audit_recipe(recipe: Recipe) -> None:
    """Prepare the data of every training stage and show what the mask audit found.

    Raises:
        DataError: A check failed; every check has been told before.
    """
    for stage, data, _ in prepare_stages(recipe):
        if isinstance(data, str):
            show(f"{stage.name}: {data}")
            continue
        checks = [AuditCheck(**check) for check in data.report["audit"]]
        show(f"{stage.name}: {len(data.train):,} training examples, {data.folder}")
        show(render_audit(checks))
        check_audit(checks)
