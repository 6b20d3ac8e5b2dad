"""Look at what a recipe's first training stage is trained on, and at the rows it leaves out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from posttrain.config.recipe import Recipe
from posttrain.config.train import FixedDataStage
from posttrain.data.prepare import PreparedData
from posttrain.errors import ConfigError, DataError
from posttrain.logs import say
from posttrain.runs.prepare import prepare_stages


@dataclass(frozen=True)
class InspectOptions:
    """What is shown, and where."""

    first: int = 0
    """First example or rejected row, from 0."""
    count: int | None = None
    """How many; where absent 1, and 1,000 rejected rows on a page."""
    page: Path | None = None
    """HTML file to write, instead of the terminal."""
    batch: int | None = None
    """Number of a planned batch, from 0, to show instead of examples."""
    rejected: bool = False
    """Show the rows that are not used instead of examples."""


_REJECTS_ON_A_PAGE = 1000


def inspect_recipe(recipe: Recipe, options: InspectOptions) -> None:
    """Show training data token by token, a packed batch, or rejected rows.

    Args:
        recipe: With a training stage.
        options: What to show.

    Raises:
        ConfigError: Two of the options contradict each other, or the stage plans no batches.
        DataError: There are fewer examples, batches or rejected rows.
    """
    if options.rejected and options.batch is not None:
        raise ConfigError(
            "`--batch` and `--rejected` show different things", hint="give one of them"
        )
    stage, data, tokenizer = next(prepare_stages(recipe))
    if isinstance(data, str):
        raise DataError(f"recipe `{recipe.name}`: {data}", hint="run the recipe first")
    if options.rejected:
        _show_rejects(data, options)
    elif options.batch is not None:
        _show_batch(recipe, stage, data, tokenizer, options)
    else:
        _show_examples(data, tokenizer, options)


def _show_examples(data: PreparedData, tokenizer: Any, options: InspectOptions) -> None:
    from posttrain.reports.inspect import build_inspect_page, collect_examples, render_example

    first = options.first
    if first >= len(data.train):
        raise DataError(f"no example {first}", hint=f"there are {len(data.train)}, from 0")
    indices = range(first, min(first + (options.count or 1), len(data.train)))
    inspected = collect_examples(data.train, tokenizer, indices)
    if options.page:
        say(f"page: {build_inspect_page(inspected, options.page)}")
        return
    for example in inspected:
        _print(Text(example.header, "bold"))
        _print(render_example(example.tokens))


def _show_batch(
    recipe: Recipe, stage: Any, data: PreparedData, tokenizer: Any, options: InspectOptions
) -> None:
    from posttrain.reports.inspect import build_inspect_page, collect_batch, render_batch
    from posttrain.training.batches import build_schedule

    if not isinstance(stage, FixedDataStage):
        raise ConfigError(
            f"stage `{stage.name}` plans no batches: a {stage.stage} stage makes them as it goes",
            hint="leave out --batch to see its prompts",
        )
    schedule = build_schedule(data.train, stage, seed=recipe.seed)
    number, kind = options.batch or 0, str(getattr(stage, "stage", ""))
    if number >= len(schedule.batches):
        raise DataError(f"no batch {number}", hint=f"there are {len(schedule.batches)}, from 0")
    indices = schedule.batches[number].tolist()
    inspected = collect_batch(data.train, tokenizer, indices, causal=kind != "mlm")
    if kind == "mlm":
        say("mlm: which of these tokens are hidden, and so trained, is drawn in training")
    if options.page:
        say(f"page: {build_inspect_page(inspected, options.page, batch=number)}")
        return
    _print(Text(f"batch {number} of {len(schedule.batches)}", "bold"))
    _print(render_batch(inspected))


def _show_rejects(data: PreparedData, options: InspectOptions) -> None:
    from posttrain.reports.rejected import build_rejects_page, collect_rejects, render_reject

    count = options.count or (_REJECTS_ON_A_PAGE if options.page else 1)
    rows, counted = collect_rejects(data.folder / "rejects.jsonl", options.first, count)
    reasons = dict(counted.most_common())
    if not rows and options.first:
        raise DataError(f"no rejected row {options.first}", hint=f"there are {counted.total()}")
    if options.page:
        say(f"page: {build_rejects_page(rows, reasons, options.page)}")
        return
    for reason, number in reasons.items():
        say(f"{number:,} × {reason}")
    for row in rows:
        _print(render_reject(row))
    if not rows:
        _print(Text("no row is rejected"))


def _print(text: Text) -> None:
    Console(file=sys.stdout, soft_wrap=True, highlight=False).print(text)
