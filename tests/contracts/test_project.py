"""Promises about the project as a whole."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "posttrain").rglob("*.py"))


def test_imports_point_down():
    result = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_no_drawer_for_odds_and_ends():
    assert not {p.name for p in SOURCES} & {"utils.py", "common.py", "helpers.py", "misc.py"}


def test_pickles_and_unsafe_yaml_are_never_read():
    for path in SOURCES:
        text = path.read_text()
        assert not re.search(r"torch\.load\(|pickle\.load|yaml\.(load|unsafe_load)\(", text), path
        assert "allow_pickle=True" not in text, path


def test_commands_of_the_readme_exist():
    from tests.contracts.test_command_line import COMMANDS

    text = (ROOT / "README.md").read_text() + (ROOT / "docs/guide.md").read_text()
    used = set(re.findall(r"^\s*(?:\$ )?posttrain ([a-z-]+)", text, flags=re.MULTILINE))
    assert used
    assert used <= set(COMMANDS)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^\s*make ([a-z]+)", text, flags=re.MULTILINE)) <= targets


def test_every_command_has_a_line_in_the_guide():
    from tests.contracts.test_command_line import COMMANDS

    text = (ROOT / "docs/guide.md").read_text()
    assert set(COMMANDS) <= set(re.findall(r"`posttrain ([a-z-]+)", text))
