"""Panel Train: look before you leap, then run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.arguments import Overrides, RecipeFile, examples, load, typed_command

_PANEL = "Train"


def add_commands(app: typer.Typer) -> None:
    """Register this panel's commands."""
    recipe, override = "recipes/demo.yaml", "recipes/demo.yaml stages.sft.steps=100"
    for name, function, lines in (
        ("check", check, (f"posttrain check {recipe}",)),
        (
            "plan",
            plan,
            (
                f"posttrain plan {recipe}",
                f"posttrain plan {override} tuning=lora",
                f"posttrain plan {recipe} --find-lr",
            ),
        ),
        (
            "schema",
            schema,
            ("posttrain schema > recipe.schema.json", "posttrain schema --markdown"),
        ),
        ("train", train, (f"posttrain train {recipe}", f"posttrain train {recipe} tuning=lora")),
        ("run", run, (f"posttrain run {recipe}", f"posttrain run {override}")),
        (
            "sweep",
            sweep,
            (
                "posttrain sweep recipes/demo.yaml sweep.yaml",
                "posttrain sweep sweep.yaml sweep.trials=5 stages.sft.steps=50",
            ),
        ),
        ("explain", explain, ("posttrain explain runs/demo/sft",)),
        (
            "verify",
            verify,
            ("posttrain verify runs/demo", "posttrain verify runs/demo/sft/checkpoints/best"),
        ),
    ):
        app.command(name, rich_help_panel=_PANEL, epilog=examples(*lines))(function)


def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Check a recipe without running anything; data files that are not there are named."""
    from posttrain.config.recipe import stage_sources
    from posttrain.data.expansion import find_paths
    from posttrain.logs import say, show

    checked = load(recipe, overrides)
    for stage in checked.stages:
        for source in stage_sources(stage):
            path = source.path
            if path is not None and not path.exists() and not find_paths(path):
                get = getattr(source, "get", None)
                told = f"; get it: {get}" if get else ""
                say(f"stage {stage.name}: {source.path} is not there yet{told}")
    stages = ", ".join(f"{stage.name} ({stage.stage})" for stage in checked.stages)
    show(f"{recipe}: good; run `{checked.name}`, stages: {stages}")


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Try rising learning rates on a copy of the model.")
    ] = False,
) -> None:
    """Spell out the settings and the arithmetic: rows, tokens, batches, steps, memory."""
    from posttrain.logs import show
    from posttrain.runs.plan import plan_recipe

    loaded = load(recipe, overrides)
    show(plan_recipe(loaded))
    if find_lr:
        from posttrain.runs.find_rate import find_rates

        for line in find_rates(loaded):
            show(line)


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the settings reference instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of a recipe, for editors."""
    import json

    from posttrain.config.schema import build_reference, build_schema
    from posttrain.logs import show

    schema = json.dumps(build_schema(), indent=2, ensure_ascii=False)
    show(build_reference() if markdown else schema)


def train(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Run a recipe's training stages, and those that make their data and tokenizer."""
    from posttrain.config.recipe import PREPARING_STAGES
    from posttrain.config.train import TRAINING_STAGES
    from posttrain.logs import show
    from posttrain.runs.run import run_recipe

    kinds = (*PREPARING_STAGES, *TRAINING_STAGES)
    folder = run_recipe(load(recipe, overrides), typed_command(), only=kinds)
    show(f"trained: {folder}")


def run(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Run all stages of a recipe in order; finished ones are not run again."""
    from posttrain.runs.finish import finish_run
    from posttrain.runs.run import run_recipe

    folder = run_recipe(load(recipe, overrides), typed_command())
    finish_run(folder)


def sweep(
    target: Annotated[
        Path, typer.Argument(metavar="[RECIPE] SWEEP", help="Recipe and sweep file (YAML).")
    ],
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings over those of the recipe; sweep.KEY=VALUE over those of the sweep.",
        ),
    ] = None,
) -> None:
    """Search settings: each trial is a run, the best one's recipe is written."""
    from posttrain.sweeps.sweep import plan_sweep, run_sweep

    words = rest or []
    recipe = target if words and "=" not in words[0] else None
    file = Path(words.pop(0)) if recipe else target
    folder = run_sweep(plan_sweep(file, recipe, words, typed_command()))
    typer.echo(f"best recipe:    {folder / 'best.yaml'}\nreport:         {folder / 'report.html'}")


def explain(
    folder: Annotated[Path, typer.Argument(help="A run, stage, checkpoint or model folder.")],
) -> None:
    """Say where a model comes from, and whether its files are as they were written."""
    from posttrain.logs import show
    from posttrain.runs.explain import explain_folder

    show(explain_folder(folder))


def verify(
    folder: Annotated[Path, typer.Argument(help="A run, stage, checkpoint or model folder.")],
) -> None:
    """Read every file that was written with a manifest, and name those that have changed."""
    from posttrain.runs.verify import verify_folder

    verify_folder(folder)
