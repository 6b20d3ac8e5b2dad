"""Panel Data: from rows to trained tokens, and a look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.arguments import Overrides, examples, load_for_data, typed_command

_PANEL = "Data"
Target = Annotated[
    Path, typer.Argument(metavar="FILE", help="A recipe, or a data file (JSON, JSONL, CSV).")
]


def add_commands(app: typer.Typer) -> None:
    """Register this panel's commands."""
    app.command(
        "prepare",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain prepare recipes/demo.yaml",
            "posttrain prepare rows.json model.path=models/Qwen3-0.6B",
        ),
    )(prepare)
    app.command(
        "inspect",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain inspect recipes/demo.yaml",
            "posttrain inspect rows.jsonl --first 10 --count 5 --html rows.html",
        ),
    )(inspect)
    app.command(
        "convert",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain convert dolci.jsonl out=train.jsonl to=messages_json",
            "posttrain convert rows.csv out=rows.jsonl to=alpaca columns.instruction=question_text",
        ),
    )(convert)
    app.command(
        "pairs",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain pairs runs/demo data=train.jsonl out=pairs.jsonl",
            "posttrain pairs runs/demo data=a.jsonl,b.jsonl out=p.jsonl completions=16 "
            "rewards.format=0.1",
        ),
    )(pairs)


def prepare(target: Target, overrides: Overrides = None) -> None:
    """Read, convert, check, split, encode and audit; every row is accounted for."""
    from posttrain.runs.prepare import prepare_recipe

    prepare_recipe(load_for_data(target, overrides))


def inspect(
    target: Target,
    overrides: Overrides = None,
    first: Annotated[int, typer.Option(min=0, help="First example to show, from 0.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Examples to show.")] = 1,
    html: Annotated[Path | None, typer.Option(help="Write a page instead.")] = None,
) -> None:
    """Show training examples token by token, with the trained tokens marked."""
    from posttrain.runs.prepare import inspect_recipe

    inspect_recipe(load_for_data(target, overrides), first=first, count=count, page=html)


def convert(
    file: Annotated[Path, typer.Argument(help="File of rows (JSON, JSONL, CSV).")],
    overrides: Overrides = None,
) -> None:
    """Rewrite rows in another format; every row and field left out is counted."""
    from posttrain.config.convert import ConvertConfig
    from posttrain.config.load import build_settings
    from posttrain.runs.convert import convert_file

    convert_file(build_settings(ConvertConfig, {"path": str(file)}, overrides or []))


def pairs(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a hub id, or `tiny`.")],
    overrides: Overrides = None,
) -> None:
    """Let a model answer prompts several times; its best and worst answers become pairs for DPO."""
    from posttrain.config.load import build_settings
    from posttrain.config.pairs import PairsConfig
    from posttrain.runs.pairs import make_pairs

    make_pairs(build_settings(PairsConfig, {"model": model}, overrides or []), typed_command())
