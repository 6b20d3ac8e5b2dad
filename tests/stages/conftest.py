"""Running the real command in a process of its own, as a user would."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.started import run_forked

Cli = Callable[..., subprocess.CompletedProcess[str]]

RECIPE = """\
name: small
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: train-data, kind: math, num: 400, seed: 1}
  - {stage: sample-data, name: test-data, kind: math, num: 20, seed: 2}
  - stage: evaluate
    name: base
    model_from: base
    tasks: &tasks
      - {task: gsm8k, data: {from_stage: test-data}, max_new_tokens: 16, batch_size: 20}
  - stage: sft
    data:
      sources: [{from_stage: train-data}]
      contamination: {against: [{from_stage: test-data}], keys: [problem]}
      split: {validation: 0.05}
    steps: 24
    batch_tokens: 1024
    learning_rate: 3e-3
    log_every_steps: 4
    save_every_steps: 6
  - {stage: evaluate, name: tuned, compare_to: base, tasks: *tasks}
"""


def environment(cache: Path) -> dict[str, str]:
    """The environment of a user's shell, with our own cache and few threads."""
    shell = {k: v for k, v in os.environ.items() if not k.startswith("POSTTRAIN_")}
    return {
        **shell,
        "POSTTRAIN_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }


def command(*arguments: str) -> list[str]:
    """The console script's own entry point, whatever is on PATH."""
    return [sys.executable, "-c", "from posttrain.cli.app import main; main()", *arguments]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A small complete recipe in an empty folder."""
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def cli(tmp_path: Path, cache_dir: Path) -> Cli:
    """Run ``posttrain ...`` in the test's folder and return its output and exit status."""

    def run(*arguments: str, stdin: str = "", timeout: float = 240) -> subprocess.CompletedProcess:
        return run_forked(
            list(arguments),
            folder=tmp_path,
            environment=environment(cache_dir),
            stdin=stdin,
            timeout=timeout,
        )

    return run
