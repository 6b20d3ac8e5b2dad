"""A reward model through the command line: trained, and judged on held-out pairs."""

import json
import math

import pytest

pytestmark = pytest.mark.slow

RECIPE = """\
name: small
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - stage: reward
    data: {sources: [{path: pairs.jsonl}], split: {validation: 0.25}}
    steps: 12
    batch_tokens: 512
    learning_rate: 3e-3
    save_every_steps: 6
"""


def read(path):
    return json.loads(path.read_text())


def test_reward_model_is_trained_and_judged(cli, tmp_path):
    rows = [
        {"prompt": f"What is {a} plus {b}?", "chosen": f"{a + b}.", "rejected": f"Why ask {a}?"}
        for a in range(6)
        for b in range(6)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "small.yaml").write_text(RECIPE)
    done = cli("train", "small.yaml")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "small" / "reward"
    results = read(folder / "results.json")
    assert results["metric"] == "pair_accuracy"
    assert results["correct"] == results["problems"] > 4
    assert results["interval"][0] < 1.0 == results["interval"][1]
    summary = read(folder / "stage.json")["summary"]
    assert summary["validation_loss"] < math.log(2) - 0.1
    assert summary["validation_pair_accuracy_interval"] == results["interval"]
