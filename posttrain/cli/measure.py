"""Panel Measure: scores with intervals, comparisons in pairs, reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.arguments import Overrides, RecipeFile, examples, load, typed_command
from posttrain.errors import ConfigError

if TYPE_CHECKING:
    from posttrain.reports.compare_many import ManyComparison

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
                "posttrain evaluate runs/demo --tasks gsm8k,arc tasks.gsm8k.data.limit=200",
                "posttrain evaluate runs/demo --harness arc_easy,hellaswag harness.limit=200",
                "posttrain evaluate tiny --harness mine harness.tasks_folder=my-tasks",
                "posttrain evaluate runs/demo --opencompass opencompass.engine=vllm",
            ),
        ),
        (
            "tasks",
            tasks,
            ("posttrain tasks", "posttrain tasks gsm8k-8shot"),
        ),
        (
            "regrade",
            regrade,
            (
                "posttrain regrade runs/demo",
                "posttrain regrade runs/demo/tuned/math grader_seconds=30",
            ),
        ),
        (
            "compare",
            compare,
            (
                "posttrain compare runs/demo/tuned runs/demo/base",
                "posttrain compare runs/a runs/b --html a-b.html --json a-b.json",
                "posttrain compare runs/base runs/sft runs/dpo --html all.html --csv all.csv",
            ),
        ),
        (
            "report",
            report,
            (
                "posttrain report runs/demo",
                "posttrain report runs/demo --to docs/reports --answers-to outputs/eval",
            ),
        ),
    ):
        app.command(name, rich_help_panel=_PANEL, epilog=examples(*lines))(function)


def evaluate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="TASK,...",
            help="Run these tasks instead (`posttrain tasks` lists them); RECIPE may then also be "
            "a run, a model folder, or a hub id.",
        ),
    ] = None,
    harness: Annotated[
        str | None,
        typer.Option(
            metavar="TASK,...",
            help="Run these tasks of lm-evaluation-harness instead; RECIPE may then also be a "
            "run, a model folder, or a hub id.",
        ),
    ] = None,
    opencompass: Annotated[
        bool,
        typer.Option(
            "--opencompass",
            help="Write the model's entry for OpenCompass instead; RECIPE as with --harness.",
        ),
    ] = False,
) -> None:
    """Run a recipe's evaluation stages on the models that exist, or tasks on any model."""
    if (tasks is not None) + (harness is not None) + opencompass > 1:
        raise ConfigError("--tasks, --harness and --opencompass: give one of them")
    if opencompass:
        from posttrain.runs.opencompass import describe_to_opencompass

        describe_to_opencompass(str(recipe), overrides or [])
        return
    if tasks is not None:
        from posttrain.runs.measure import evaluate_model

        evaluate_model(str(recipe), tasks, overrides or [], typed_command())
        return
    if harness is not None:
        from posttrain.runs.harness import evaluate_harness

        evaluate_harness(str(recipe), harness, overrides or [])
        return
    from posttrain.runs.finish import finish_run
    from posttrain.runs.run import run_recipe

    if not recipe.is_file() and recipe.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError(
            f"{recipe}: not a recipe",
            hint=f"to measure a run or a model, name tasks: posttrain evaluate {recipe} --tasks "
            "gsm8k (`posttrain tasks` lists them)",
        )
    loaded = load(recipe, overrides)
    if not any(stage.stage in ("evaluate", "harness") for stage in loaded.stages):
        raise ConfigError(f"{recipe}: no evaluate stage, so nothing to measure")
    kinds = ("sample-data", "generate-items", "evaluate", "harness")
    folder = run_recipe(loaded, typed_command(), only=kinds)
    finish_run(folder)


def tasks(
    name: Annotated[
        str | None, typer.Argument(metavar="[TASK]", help="Show this one's settings.")
    ] = None,
) -> None:
    """List the tasks that an evaluation can name, or show one; own ones are in ./tasks."""
    from posttrain.logs import show
    from posttrain.runs.list_tasks import render_tasks, show_task

    show(show_task(name, Path.cwd()) if name else render_tasks(Path.cwd()))


def regrade(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run, a stage or a task.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Other settings of grading."),
    ] = None,
) -> None:
    """Grade saved answers anew, without a model, and say which verdicts change."""
    from posttrain.runs.regrade import regrade as regrade_folder

    regrade_folder(folder, overrides or [])


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...",
            help="Runs, or evaluations of them, on the same problems; the first one is what the "
            "others are compared with.",
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a page, with every answer side by side."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the scores as CSV, a row for each."),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the scores as Markdown, a column per task."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write every number as JSON.")
    ] = None,
) -> None:
    """Compare evaluations problem by problem: paired differences with intervals and p values."""
    from posttrain.files import write_json
    from posttrain.logs import say, show
    from posttrain.reports.compare import compare_runs, render_comparison
    from posttrain.reports.compare_many import compare_many, render_many
    from posttrain.reports.compare_page import build_comparison_report, build_many_report

    if len(runs) == 1:
        raise ConfigError(
            f"compare {runs[0]}: with what?", hint="give at least two runs or evaluations"
        )
    for key, file in (("html", html), ("csv", csv), ("markdown", markdown), ("json", json)):
        if file and file.is_dir():
            raise ConfigError(f"--{key} {file}: is a folder", hint="give the name of a file")
    if csv or markdown:
        _write_tables(compare_many(runs), csv, markdown)
    if len(runs) > 2:
        many = compare_many(runs)
        show(render_many(many))
        found = many.to_json()
        page = build_many_report(many, html) if html else None
    else:
        comparison = compare_runs(*runs)
        show(render_comparison(comparison))
        found = comparison.to_json()
        page = build_comparison_report(comparison, html) if html else None
    if page:
        say(f"report: {page}")
    if json:
        write_json(json, found)
        say(f"numbers: {json}")


def _write_tables(comparison: ManyComparison, csv: Path | None, markdown: Path | None) -> None:
    from posttrain.files import write_text
    from posttrain.logs import say
    from posttrain.reports.score_tables import build_score_csv, build_score_markdown

    for out, build in ((csv, build_score_csv), (markdown, build_score_markdown)):
        if out:
            write_text(out, build(comparison))
            say(f"scores: {out}")


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, or one with evaluations in it.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write each evaluation as Markdown, CSV and a page into this folder, which "
            "several runs may share, with an index.",
        ),
    ] = None,
    answers_to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write every problem's answer as DIR/<task>/<run>-<stage>.json.",
        ),
    ] = None,
) -> None:
    """Write a run's report.html, the pages of its evaluations, and print its table."""
    from posttrain.logs import say
    from posttrain.reports.publish import publish_answers, publish_run
    from posttrain.runs.finish import write_report

    write_report(run)
    if to:
        for page in publish_run(run, to):
            say(f"report: {page}")
    if answers_to:
        for file in publish_answers(run, answers_to):
            say(f"answers: {file}")
