"""A training stage small enough to be run whole inside a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain.config.load import build_recipe
from posttrain.models.load import find_model
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


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """A reward model with a random head: it prefers one answer to another, whatever they say."""
    folder = tmp_path_factory.mktemp("judge")
    place = find_model("tiny")
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=1)
    model.config.pad_token_id = 0
    torch.nn.init.normal_(model.score.weight, std=0.05)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place).save_pretrained(folder)
    return folder


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
