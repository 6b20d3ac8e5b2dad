"""Panel Data: from rows to trained tokens, and a look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain.cli.arguments import Overrides, examples, load, load_for_data, typed_command

_PANEL = "Data"
Target = Annotated[
    Path, typer.Argument(metavar="FILE", help="A recipe, or a data file (JSON, JSONL, CSV).")
]


def _column(name: str) -> Any:
    """An option that says which column holds a field of alpaca; with a line or an underscore."""
    declared = f"--{name}-col", f"--{name}_col"
    return typer.Option(*declared, metavar="NAME", help=f"Column of a table to take as `{name}`.")


def add_commands(app: typer.Typer) -> None:
    """Register this panel's commands."""
    app.command(
        "prepare",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain prepare recipes/demo.yaml",
            "posttrain prepare rows.json model.path=models/Qwen3-0.6B",
            "posttrain prepare dataset_info.json dataset=my_rows split=8:1:1",
        ),
    )(prepare)
    app.command(
        "inspect",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain inspect recipes/demo.yaml",
            "posttrain inspect rows.jsonl --first 10 --count 5 --html rows.html",
            "posttrain inspect recipes/demo.yaml --batch 0",
            "posttrain inspect rows.jsonl --rejected --count 20",
        ),
    )(inspect)
    app.command(
        "validate",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain validate rows.jsonl",
            "posttrain validate data/ kind=preference dedup.method=exact --rejects found.jsonl",
            "posttrain validate recipes/demo.yaml",
        ),
    )(validate)
    app.command(
        "audit",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain audit recipes/demo.yaml",
            "posttrain audit rows.jsonl model.path=models/Qwen3-0.6B",
        ),
    )(audit)
    app.command(
        "convert",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain convert dolci.jsonl out=train.jsonl to=messages_json",
            "posttrain convert rows.csv out=rows.jsonl to=alpaca --instruction-col question_text",
            "posttrain convert pairs.json out=pairs.jsonl to=preference lossy=count",
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

    prepare_recipe(load_for_data(target, overrides), typed_command())


def inspect(
    target: Target,
    overrides: Overrides = None,
    first: Annotated[int, typer.Option(min=0, help="First example to show, from 0.")] = 0,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many to show; 1 where absent.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page instead.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=0, help="Show a planned batch, from 0, with its segments.")
    ] = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="Show the rows left out.")] = False,
) -> None:
    """Show training examples token by token, coloured by their loss weight."""
    from posttrain.runs.inspect import InspectOptions, inspect_recipe

    options = InspectOptions(first, count, html, batch, rejected)
    inspect_recipe(load_for_data(target, overrides), options)


def validate(
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A recipe, a data file, a folder, a pattern.")
    ],
    overrides: Overrides = None,
    rejects: Annotated[Path | None, typer.Option(help="Write a line per finding.")] = None,
) -> None:
    """Read, convert and check rows without a model; tell what is wrong with which."""
    from posttrain.runs.validate import validate_files, validate_recipe

    if target.suffix.lower() in (".yaml", ".yml"):
        validate_recipe(load(target, overrides), rejects)
        return
    from posttrain.config.load import build_settings
    from posttrain.config.validate import ValidateConfig

    config = build_settings(ValidateConfig, {"path": str(target)}, overrides or [])
    validate_files(config, rejects)


def audit(target: Target, overrides: Overrides = None) -> None:
    """Prove, before any training, that what is trained is what was meant."""
    from posttrain.runs.prepare import audit_recipe

    audit_recipe(load_for_data(target, overrides))


def convert(
    file: Annotated[Path, typer.Argument(help="File of rows (JSON, JSONL, CSV, Parquet, Arrow).")],
    overrides: Overrides = None,
    instruction_col: Annotated[str | None, _column("instruction")] = None,
    input_col: Annotated[str | None, _column("input")] = None,
    output_col: Annotated[str | None, _column("output")] = None,
    system_col: Annotated[str | None, _column("system")] = None,
) -> None:
    """Rewrite rows in another format; every row and field left out is counted."""
    from posttrain.config.convert import ConvertConfig
    from posttrain.config.load import build_settings
    from posttrain.runs.convert import convert_file

    given = {
        "instruction": instruction_col,
        "input": input_col,
        "output": output_col,
        "system": system_col,
    }
    columns = {name: column for name, column in given.items() if column is not None}
    # Whoever names these columns means rows of a table as alpaca has them.
    alpaca = {"to": "alpaca", "format": "alpaca", "columns": columns} if columns else {}
    convert_file(build_settings(ConvertConfig, {"path": str(file), **alpaca}, overrides or []))


def pairs(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a hub id, or `tiny`.")],
    overrides: Overrides = None,
) -> None:
    """Let a model answer prompts several times; its best and worst answers become pairs for DPO."""
    from posttrain.config.load import build_settings
    from posttrain.config.pairs import PairsConfig
    from posttrain.runs.pairs import make_pairs

    make_pairs(build_settings(PairsConfig, {"model": model}, overrides or []), typed_command())
