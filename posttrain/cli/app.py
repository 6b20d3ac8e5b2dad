"""The ``posttrain`` command: its commands in panels, and one line for every user's mistake."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from posttrain import __version__
from posttrain.cli import data, measure, ship, start, train
from posttrain.cli.arguments import typed_command
from posttrain.errors import InterruptedRunError, PosttrainError


class _Commands(TyperGroup):
    """All commands. Typer would end an interrupted one without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                "interrupted; nothing half-written stays", hint=f"again with: {typed_command()}"
            ) from None
        except typer.BadParameter as error:
            # What pydantic, by which Typer checks values, puts before the message.
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="posttrain",
    cls=_Commands,
    help="From raw data to a served, measured language model, in one recipe file.\n\n"
    "Settings are never flags: any field of a recipe is set by [b]key=value[/b], "
    "for example [b]model.path=tiny stages.sft.steps=100[/b].",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (start, data, train, measure, ship):
    module.add_commands(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"posttrain {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; the exit status tells the kind of failure."""
    # A job scheduler's signals are a Ctrl-C: nothing is left half-written, and one line says so.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGUSR1, _interrupt)
    try:
        app()
    except PosttrainError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"error: {line}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does; nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
