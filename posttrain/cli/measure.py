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
                "posttrain compare runs/base runs/sft runs/dpo runs/grpo",
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
    if not any(stage.stage in ("evaluate", "harness") for stage in loaded.stages):
        raise ConfigError(f"{recipe}: no evaluate stage, so nothing to measure")
    kinds = ("sample-data", "generate-items", "evaluate", "harness")
    folder = run_recipe(loaded, typed_command(), only=kinds)
    finish_run(folder)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...",
            help="Runs, or evaluations of them, on the same problems; the first one is what the "
            "others are compared with.",
        ),
    ],
    html: Annotated[Path | None, typer.Option(help="Also write a page.")] = None,
) -> None:
    """Compare evaluations problem by problem: paired differences with intervals and p values."""
    from posttrain.logs import say, show
    from posttrain.reports.compare import (
        build_comparison_report,
        compare_runs,
        render_comparison,
    )
    from posttrain.reports.compare_many import build_many_report, compare_many, render_many

    if len(runs) == 1:
        raise ConfigError(
            f"compare {runs[0]}: with what?", hint="give at least two runs or evaluations"
        )
    if len(runs) > 2:
        many = compare_many(runs)
        show(render_many(many))
        if html:
            say(f"report: {build_many_report(many, html)}")
        return
    comparison = compare_runs(*runs)
    show(render_comparison(comparison))
    if html:
        say(f"report: {build_comparison_report(comparison, html)}")


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
) -> None:
    """Write a run's report.html and print its table."""
    from posttrain.runs.finish import write_report

    write_report(run)
