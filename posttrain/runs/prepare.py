"""Prepare the data of a recipe's training stages, and show examples of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.config.data import SampleDataStage
from posttrain.config.recipe import Recipe, stage_sources
from posttrain.config.train import TrainingStage
from posttrain.data.prepare import PreparedData, prepare_data
from posttrain.errors import ConfigError, DataError
from posttrain.logs import say, show
from posttrain.models.load import load_tokenizer
from posttrain.runs.folder import run_folder
from posttrain.runs.kinds.sample_data import sample_file
from posttrain.runs.progress import Progress, settle_sources
from posttrain.runs.run import run_recipe
from posttrain.training.data import describe_data


def prepare_recipe(recipe: Recipe) -> None:
    """Prepare the data of every training stage and say what became of each row.

    Raises:
        PosttrainError: Unusable data, tokenizer or template; no training stage.
    """
    say(f"tokenizer and template: {recipe.model.tokenizer or recipe.model.path}")
    for stage, data, _ in prepare_stages(recipe):
        if isinstance(data, str):
            show(f"{stage.name}: {data}")
            continue
        describe_data(data)
        show(f"{stage.name}: prepared in {data.folder}")


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


def inspect_recipe(recipe: Recipe, *, first: int, count: int, page: Path | None) -> None:
    """Show examples of the first training stage token by token.

    Args:
        recipe: With a training stage.
        first: First example, from 0.
        count: How many.
        page: HTML file to write, instead of the terminal.

    Raises:
        DataError: There are fewer examples.
    """
    from posttrain.reports.inspect import build_inspect_page, collect_examples, render_example

    _, data, tokenizer = next(prepare_stages(recipe))
    if isinstance(data, str):
        raise DataError(f"recipe `{recipe.name}`: {data}", hint="run the recipe first")
    if first >= len(data.train):
        raise DataError(f"no example {first}", hint=f"there are {len(data.train)}, from 0")
    indices = range(first, min(first + count, len(data.train)))
    inspected = collect_examples(data.train, tokenizer, indices)
    if page:
        say(f"page: {build_inspect_page(inspected, page)}")
        return
    console = Console(soft_wrap=True, highlight=False)
    for example in inspected:
        console.print(example.header, style="bold", markup=False)
        console.print(render_example(example.tokens))
