"""Runs that are killed, stopped, damaged and starved; with ``--torture`` many more of each kind.

What each test has done is in a table at the end, with the seeds to do it again.
"""

import os
import shutil
from pathlib import Path

import pytest

from posttrain.files import digest_file, load_jsonl
from tests.metrics import drop_times
from tests.stages.conftest import environment
from tests.stages.started import Forked, run_forked

RECIPE = """\
name: small
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
lora: {rank: 4, dropout: 0.1}
stages:
  - {stage: sample-data, name: rows, kind: math, num: 300, seed: 1}
  - stage: sft
    data: {sources: [{from_stage: rows}], split: {validation: 0.05}}
    steps: 60
    batch_tokens: 256
    learning_rate: 3e-3
    log_every_steps: 1
    save_every_steps: 3
    keep_last: 2
"""


def pytest_addoption(parser):
    parser.addoption("--torture", action="store_true", help="many more of each kind")


def wants_all(config):
    """Whether ``--torture`` was given; without these tests on the command line it is unknown."""
    return config.getoption("--torture", default=False)


class Place:
    """A folder with a recipe and a cache of its own, where runs are started.

    Args:
        folder: Empty.
        recipe: Text.
        cache: The cache, where it is shared.
    """

    def __init__(self, folder: Path, recipe: str = RECIPE, cache: Path | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(recipe)
        self.cache = cache or folder / "cache"
        self.run = folder / "runs/small"
        self.stage = self.run / "sft"
        self._starts = 0

    def start(self, *arguments, before=None):
        self._starts += 1
        streams = self.folder / f"streams-{self._starts}"
        streams.mkdir()
        return Forked(
            list(arguments), streams, folder=self.folder, environment=environment(self.cache),
            before=before,
        )  # fmt: skip

    def finish(self, *arguments, timeout=240):
        return run_forked(
            list(arguments), folder=self.folder, environment=environment(self.cache), stdin="",
            timeout=timeout,
        )  # fmt: skip

    def weights(self):
        (file,) = (self.stage / "final").glob("*.safetensors")
        return digest_file(file)

    def metrics(self):
        rows = load_jsonl(self.stage / "metrics.jsonl")
        return drop_times(rows)


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """Weights and metrics of a run that nothing has happened to, by tuning."""
    known = {}

    def run(tuning, *settings):
        key = (tuning, *settings)
        if key not in known:
            place = Place(tmp_path_factory.mktemp("unbroken"))
            done = place.finish("train", "small.yaml", f"tuning={tuning}", *settings)
            assert done.returncode == 0, done.stderr
            known[key] = place.weights(), place.metrics()
            shutil.rmtree(place.folder)
        return known[key]

    return run


def pytest_terminal_summary(terminalreporter):
    """Add up what the tests have noted with ``record_property``."""
    table = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "torture":
                    kind, count, detail = value
                    row = table.setdefault(kind, [0, 0, 0, []])
                    row[0] += count
                    row[1 if outcome == "passed" else 2] += 1
                    row[3] += [str(detail)] if detail else []
    if not table:
        return
    terminalreporter.section("torture")
    terminalreporter.write_line(f"{'what':28} {'times':>6} {'held':>5} {'lost':>5}  seeds, details")
    for kind, (count, held, lost, details) in sorted(table.items()):
        said = ", ".join(details)
        said = said if len(said) < 90 else said[:87] + "..."
        terminalreporter.write_line(f"{kind:28} {count:6} {held:5} {lost:5}  {said}")


@pytest.fixture
def note(record_property):
    """Put a line into the table at the end."""

    def add(kind, count=1, detail=""):
        record_property("torture", (kind, count, detail))

    return add


def is_root():
    return os.geteuid() == 0
