"""Panel Measure: scores with intervals, comparisons in pairs, reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.arguments import Overrides, RecipeFile, examples, load, typed_command
from posttrain.errors import ConfigError

_PANEL = "Measure"


def add_commands(app: typer.Typer) -> None:
    """Register this panel's commands."""
    for name, function, lines in (
        (
            "evaluate",
            evaluate,
            (
                "posttrain evaluate recipes/demo.yaml",
                "posttrain evaluate recipes/gsm8k/sft.yaml model.path=models/Qwen3-0.6B",
                "posttrain evaluate runs/demo --harness arc_easy,hellaswag harness.limit=200",
                "posttrain evaluate tiny --harness mine harness.tasks_folder=my-tasks",
            ),
        ),
        (
            "compare",
            compare,
            (
                "posttrain compare runs/demo/tuned runs/demo/base",
                "posttrain compare runs/a runs/b --html a-b.html",
            ),
        ),
        ("report", report, ("posttrain report runs/demo",)),
    ):
        app.command(name, rich_help_panel=_PANEL, epilog=examples(*lines))(function)


def evaluate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    harness: Annotated[
        str | None,
        typer.Option(
            metavar="TASK,...",
            help="Run these tasks of lm-evaluation-harness instead; RECIPE may then also be a "
            "run, a model folder, or a hub id.",
        ),
    ] = None,
) -> None:
    """Run a recipe's evaluation stages on the models that exist."""
    if harness is not None:
        from posttrain.runs.harness import evaluate_harness

        evaluate_harness(str(recipe), harness, overrides or [])
        return
    from posttrain.runs.finish import finish_run
    from posttrain.runs.run import run_recipe

    loaded = load(recipe, overrides)
    if not any(stage.stage == "evaluate" for stage in loaded.stages):
        raise ConfigError(f"{recipe}: no evaluate stage, so nothing to measure")
    folder = run_recipe(loaded, typed_command(), only=("sample-data", "generate-items", "evaluate"))
    finish_run(folder)


def compare(
    first: Annotated[Path, typer.Argument(help="A run, or one of its evaluations.")],
    second: Annotated[Path, typer.Argument(help="Another one on the same problems.")],
    html: Annotated[Path | None, typer.Option(help="Also write a page.")] = None,
) -> None:
    """Compare two evaluations problem by problem: paired difference with interval and p value."""
    from posttrain.logs import say, show
    from posttrain.reports.compare import (
        build_comparison_report,
        compare_runs,
        render_comparison,
    )

    comparison = compare_runs(first, second)
    show(render_comparison(comparison))
    if html:
        say(f"report: {build_comparison_report(comparison, html)}")


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
) -> None:
    """Write a run's report.html and print its table."""
    from posttrain.runs.finish import write_report

    write_report(run)
