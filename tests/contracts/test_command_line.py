"""The command line: frozen list, light start, examples in every help."""

import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from posttrain.cli.app import app

PANELS = {
    "Start": ["doctor", "sample-data", "download", "migrate"],
    "Data": ["prepare", "inspect", "validate", "audit", "convert", "pairs"],
    "Train": ["check", "plan", "schema", "train", "run", "sweep", "explain", "verify"],
    "Measure": ["evaluate", "tasks", "regrade", "compare", "report"],
    "Ship": ["chat", "serve", "extend-tokenizer", "generate-items", "merge", "quantize"],
}
COMMANDS = [name for names in PANELS.values() for name in names]


def best_seconds(code: str, *, enough: float) -> float:
    """Processor time of a start, the best of up to 15 runs.

    Starting waits for nothing, so on an idle machine this is the time on the clock; while other
    tests run beside it, the clock would measure them.
    """
    best = float("inf")
    for _ in range(15):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        after = os.times()
        used = (after.children_user + after.children_system) - (
            before.children_user + before.children_system
        )
        best = min(best, used)
        if best < enough:
            break
    return best


def start(*arguments: str) -> str:
    return f"import sys; sys.argv = {['posttrain', *arguments]!r}; " + (
        "from posttrain.cli.app import main\ntry: main()\nexcept SystemExit as e: assert not e.code"
    )


def test_commands_and_their_panels_are_these():
    registered = {c.name: c.rich_help_panel for c in app.registered_commands}
    assert registered == {name: panel for panel, names in PANELS.items() for name in names}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples_of_its_own_command(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert re.search(rf"\$ .*posttrain {command}\b", result.stdout)


def test_a_wrong_word_is_told_in_plain_words():
    result = CliRunner().invoke(app, ["sample-data", "nonsense", "--out", "x.jsonl"])
    assert result.exit_code == 2
    assert "'nonsense' is not one of" in result.output
    assert "Value error" not in result.output


@pytest.fixture(scope="module")
def bare_seconds() -> float:
    """What typer and rich take to be there, on this machine beside what else it is doing."""
    return best_seconds("import typer.rich_utils, rich.markdown", enough=0.0)


def test_help_takes_a_tenth_of_a_second_more_than_typer(bare_seconds):
    most = bare_seconds + 0.1
    assert best_seconds(start("--help"), enough=most) < most


def test_check_takes_four_tenths_of_a_second_more_than_typer(bare_seconds):
    most = bare_seconds + 0.4
    assert best_seconds(start("check", "recipes/demo.yaml"), enough=most) < most


@pytest.mark.parametrize(
    "arguments", [["--help"], ["check", "recipes/demo.yaml"], ["schema"], ["tasks"]]
)
def test_light_commands_do_not_import_torch(arguments):
    heavy = "{'torch', 'transformers', 'peft', 'numpy', 'matplotlib'} & set(sys.modules)"
    code = f"{start(*arguments)}\nfound = {heavy}\nassert not found, found"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_grading_and_config_import_without_torch():
    code = (
        "import sys, posttrain.grading.answers, posttrain.grading.equivalence, "
        "posttrain.config.load, posttrain.files, posttrain.samples\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
