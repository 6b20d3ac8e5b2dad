"""Panel Ship: put a model to use."""

from __future__ import annotations

from typing import Annotated

import typer

from posttrain.cli.arguments import Overrides, examples

_PANEL = "Ship"


def add_commands(app: typer.Typer) -> None:
    """Register this panel's commands."""
    app.command(
        "chat",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain chat runs/demo",
            "posttrain chat models/Qwen3-0.6B temperature=0.7 system='Answer briefly.'",
            "echo 'What is 3 plus 4?' | posttrain chat runs/demo",
        ),
    )(chat)


def chat(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a hub id, or `tiny`.")],
    overrides: Overrides = None,
) -> None:
    """Talk to a model; an empty line or Ctrl-D ends."""
    from posttrain.config.load import build_chat_config
    from posttrain.runs.chat import chat_with

    chat_with(build_chat_config(model, overrides or []))
