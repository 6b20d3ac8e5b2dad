"""Tell what is in the rows of files or of a recipe, before a tokenizer or a model is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from posttrain.config.data import (
    DataConfig,
    PreferenceDataConfig,
    PromptDataConfig,
    SampleDataStage,
    SourceConfig,
    TextDataConfig,
)
from posttrain.config.recipe import Recipe
from posttrain.config.train import TrainingStage
from posttrain.config.validate import ValidateConfig
from posttrain.data.expansion import FINDINGS, expand_source
from posttrain.data.validation import DataSet, Validation
from posttrain.errors import ConfigError, DataError
from posttrain.files import write_jsonl
from posttrain.logs import say, show
from posttrain.runs.folder import run_folder
from posttrain.runs.kinds.sample_data import sample_file
from posttrain.runs.progress import Progress, settle_sources
from posttrain.runs.row_files import holds_findings

_KINDS = {
    PreferenceDataConfig: "preference",
    PromptDataConfig: "prompt",
    TextDataConfig: "text",
}


def validate_files(config: ValidateConfig, rejects: Path | None = None) -> None:
    """Validate files without a recipe.

    Args:
        config: What to read, and what to ask.
        rejects: File for one line per finding.

    Raises:
        DataError: A file cannot be read, or too many rows are unusable.
    """
    source = SourceConfig(**{name: getattr(config, name) for name in SourceConfig.model_fields})
    data = DataSet(
        str(config.path),
        (source,),
        kind=config.kind,
        dedup=config.dedup,
        contamination=config.contamination,
        max_reject_fraction=config.max_reject_fraction,
    )
    _validate([data], rejects)


def validate_recipe(recipe: Recipe, rejects: Path | None = None) -> None:
    """Validate the rows of every training stage.

    Args:
        recipe: With a training stage.
        rejects: File for one line per finding.

    Raises:
        ConfigError: There is no training stage, or none whose rows are there yet.
        DataError: A file cannot be read, or too many rows are unusable.
    """
    if not any(isinstance(stage, TrainingStage) for stage in recipe.stages):
        raise ConfigError(f"recipe `{recipe.name}`: no training stage, so no data to validate")
    data_sets = list(_list_data_sets(recipe))
    if not data_sets:
        raise ConfigError(
            f"recipe `{recipe.name}`: no training stage's rows are there yet",
            hint="`posttrain prepare` makes its sample data; pairs are made by `posttrain run`",
        )
    _validate(data_sets, rejects)


def _list_data_sets(recipe: Recipe) -> Iterator[DataSet]:
    made = Progress(recipe, run_folder(recipe))
    for stage in recipe.stages:
        if isinstance(stage, SampleDataStage):
            path = sample_file(stage, made.folder / stage.name)
            if path.is_file():
                made.files[stage.name] = path
    for stage in recipe.stages:
        if not isinstance(stage, TrainingStage):
            continue
        try:
            settled: Any = settle_sources(stage, made)
        except ConfigError as error:
            say(f"{stage.name}: not looked at: {error}")
            continue
        config: DataConfig = settled.data
        yield DataSet(
            stage.name,
            config.sources,
            config.validation_sources,
            _KINDS.get(type(config), "chat"),
            config.dedup,
            config.contamination,
            config.max_reject_fraction,
            config if isinstance(config, TextDataConfig) else None,
        )


def _validate(data_sets: Sequence[DataSet], rejects: Path | None) -> None:
    """Look at all data sets, tell what was found, and fail at the end where there is a reason."""
    checks = [Validation(data) for data in data_sets]
    if rejects is not None:
        _check_rejects_place(rejects, data_sets)
        write_jsonl(rejects, (reject.to_json() for check in checks for reject in check.run()))
    else:
        for check in checks:
            for _ in check.run():
                pass
    problem: DataError | None = None
    for check in checks:
        if len(checks) > 1:
            show(f"stage {check.data.name}:")
        for line in check.lines():
            show(line)
        problem = problem or check.find_problem()
    if rejects is not None:
        show(f"findings: {rejects}")
    if problem:
        raise problem


def _check_rejects_place(rejects: Path, data_sets: Sequence[DataSet]) -> None:
    """Make sure that the findings replace nothing but findings, and are no rows of the next run.

    Raises:
        ConfigError: They would.
    """
    place = rejects.resolve()
    for source in _list_read(data_sets):
        if place in {path.resolve() for path in _find_files(source)}:
            raise ConfigError(f"--rejects: {rejects} is a file to read", hint="choose another name")
        if source.path and _holds(source.path, place):
            raise ConfigError(
                f"--rejects: {rejects} would be read as rows of {source.path} the next time",
                hint="choose another folder",
            )
    if rejects.exists() and not holds_findings(rejects):
        raise ConfigError(
            f"--rejects: {rejects} exists, and holds no findings of an earlier run",
            hint="choose another name",
        )


def _list_read(data_sets: Sequence[DataSet]) -> Iterator[SourceConfig]:
    for data in data_sets:
        yield from (*data.sources, *data.watched)
        yield from data.contamination.against if data.contamination else ()


def _find_files(source: SourceConfig) -> list[Path]:
    try:
        files = [source, *expand_source(source)]
    except DataError:  # told when it is read
        files = [source]
    return [file.path for file in files if file.path is not None]


def _holds(source: Path, place: Path) -> bool:
    """Whether a new file at a place would be one of a source's files."""
    if place.name.endswith(FINDINGS):
        return False
    whole = source.resolve()
    if whole.is_dir():
        inner = place.parts[len(whole.parts) :]
        return place.is_relative_to(whole) and not any(name.startswith(".") for name in inner)
    # A name that exists is no pattern, whatever signs are in it.
    return place == whole if whole.exists() else _matches(place.parts, whole.parts)


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether `glob.glob` would find a path by a pattern, both part by part."""
    if not pattern or not names:
        return not names and all(part == "**" for part in pattern)
    name, part = names[0], pattern[0]
    if name.startswith(".") and not part.startswith("."):
        return part == "**" and _matches(names, pattern[1:])
    if part == "**":  # any number of folders, also none
        return _matches(names, pattern[1:]) or _matches(names[1:], pattern)
    return fnmatch(name, part) and _matches(names[1:], pattern[1:])
