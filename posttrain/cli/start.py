"""Panel Start: look around, and get something to work with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.arguments import Overrides, examples

_PANEL = "Start"


class SampleKind(StrEnum):
    """Kinds of sample data."""

    MATH = "math"
    CHAT = "chat"
    MCQ = "mcq"
    MCQ_PREFERENCE = "mcq-preference"
    PREFERENCE = "preference"
    TEXT = "text"
    TOOLS = "tools"


def add_commands(app: typer.Typer) -> None:
    """Register this panel's commands."""
    app.command("doctor", rich_help_panel=_PANEL, epilog=examples("posttrain doctor"))(doctor)
    app.command(
        "sample-data",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain sample-data math --num 1000 --out math.jsonl",
            "posttrain sample-data tools --num 200 --seed 7 --out tools.jsonl",
        ),
    )(sample_data)
    app.command(
        "download",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain download Qwen/Qwen3-0.6B out=models/Qwen3-0.6B",
            "posttrain download openai/gsm8k out=data/gsm8k kind=dataset",
            "posttrain download Qwen/Qwen3-8B out=models/Qwen3-8B hub=modelscope",
        ),
    )(download)
    app.command(
        "migrate",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain migrate finetune.yaml out=recipes/finetune.yaml",
            "posttrain migrate rlhf.yaml out=recipes/grpo.yaml stage=grpo",
        ),
    )(migrate)


def download(
    name: Annotated[str, typer.Argument(help="As on the hub, such as Qwen/Qwen3-0.6B.")],
    overrides: Overrides = None,
) -> None:
    """Copy a model or data set from a hub into a folder: resumable and checked."""
    from posttrain.config.download import DownloadConfig
    from posttrain.config.load import build_settings
    from posttrain.runs.download import download as fetch

    typer.echo(fetch(build_settings(DownloadConfig, {"name": name}, overrides or [])))


def migrate(
    source: Annotated[Path, typer.Argument(metavar="OLD", help="YAML or JSON of another tool.")],
    overrides: Overrides = None,
) -> None:
    """Rewrite another tool's training settings as a recipe."""
    from posttrain.config.load import build_settings
    from posttrain.config.migrate import MigrateConfig
    from posttrain.runs.migrate import migrate_file

    settings = build_settings(MigrateConfig, {"source": str(source)}, overrides or [])
    typer.echo(migrate_file(settings))


def doctor(
    attention: Annotated[
        bool, typer.Option("--attention", help="Measure every attention back end instead.")
    ] = False,
) -> None:
    """Show versions, devices, attention back ends that work, disk, and what to mend."""
    from posttrain.logs import show

    if attention:
        from posttrain.runs.doctor_attention import examine_attention as examine
    else:
        from posttrain.runs.doctor import examine_machine as examine

    text, healthy = examine()
    show(text)
    raise typer.Exit(0 if healthy else 1)


def sample_data(
    kind: Annotated[SampleKind, typer.Argument(help="What to make.")],
    out: Annotated[Path, typer.Option(help="File to write (JSONL).")],
    num: Annotated[int, typer.Option(min=1, help="Rows.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other rows.")] = 0,
) -> None:
    """Make sample data of our own: the same seed gives the same rows."""
    from posttrain.config.data import SampleDataStage
    from posttrain.runs.kinds.sample_data import make_sample_data

    stage = SampleDataStage(
        stage="sample-data", kind=kind.value, num=num, seed=seed, out=out.resolve()
    )
    make_sample_data(stage, out.parent)
