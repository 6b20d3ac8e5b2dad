"""Panel Start: look around, and get something to work with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.arguments import examples

_PANEL = "Start"


class SampleKind(StrEnum):
    """Kinds of sample data."""

    MATH = "math"
    CHAT = "chat"
    MCQ = "mcq"
    TOOLS = "tools"
    PREFERENCE = "preference"


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


def doctor() -> None:
    """Show versions, devices, attention back ends that work, disk, and what to mend."""
    from posttrain.logs import show
    from posttrain.runs.doctor import examine_machine

    text, healthy = examine_machine()
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
    from posttrain.runs.stages import run_sample_data

    stage = SampleDataStage(
        stage="sample-data", kind=kind.value, num=num, seed=seed, out=out.resolve()
    )
    run_sample_data(stage, out.parent)
