"""A training stage small enough to be run whole inside a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.load import build_recipe
from posttrain.runtime import Compute
from posttrain.samples.math import generate_math
from posttrain.training.stage import TrainingJob

COMMAND = "posttrain run demo.yaml"


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty worked problems."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = generate_math(40, seed=5)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make_job(
    tmp_path: Path, rows_file: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., TrainingJob]:
    """Make a job of six small steps; keywords change the stage, `recipe` the recipe around it.

    None takes a setting away.
    """

    def make(name: str = "run", *, recipe: dict[str, Any] | None = None, **stage: Any) -> Any:
        settings = {
            "stage": "sft",
            "data": {"sources": [{"path": str(rows_file)}], "split": {"validation": 0.2}},
            "steps": 6,
            "batch_tokens": 256,
            "learning_rate": 1e-3,
            "log_every_steps": 2,
            "save_every_steps": 2,
            "keep_last": 10,
            **stage,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        values = {"name": "test", "model": {"path": "tiny"}, "stages": [given], **(recipe or {})}
        built = build_recipe(values, [], "test")
        compute = Compute("cpu", "fp32", 1, "a test")
        return TrainingJob(built, built.stages[0], tmp_path / name, compute, COMMAND)

    return make
