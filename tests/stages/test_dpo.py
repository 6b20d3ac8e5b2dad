"""Preference optimization through the command line, after the fine-tuning it starts from."""

import json
import math
from pathlib import Path

import pytest

from posttrain.files import load_jsonl

pytestmark = pytest.mark.slow

RECIPE = """\
name: small
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: chats, kind: chat, num: 60, seed: 1}
  - {stage: sample-data, name: pairs, kind: preference, num: 40, seed: 2}
  - {stage: sft, data: {sources: [{from_stage: chats}]}, steps: 4, batch_tokens: 1024}
  - stage: dpo
    data: {sources: [{from_stage: pairs}], split: {validation: 0.25}}
    steps: 6
    batch_tokens: 2048
    learning_rate: 1e-4
    log_every_steps: 1
    save_every_steps: 3
"""


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_dpo_goes_on_from_sft_and_learns_the_order_of_pairs(cli, tmp_path):
    (tmp_path / "small.yaml").write_text(RECIPE)
    done = cli("run", "small.yaml")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "small"
    lineage = read(run / "dpo" / "lineage.json")
    assert lineage["parent_model"] == str(run / "sft" / "final")
    assert lineage["parent_digest"] == read(run / "sft" / "stage.json")["digest"]

    lines = load_jsonl(run / "dpo" / "metrics.jsonl")
    # Policy and reference are the same model before the first update.
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    held_out = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in held_out] == [3, 6]
    assert held_out[-1]["validation_loss"] < math.log(2) - 0.1
    assert held_out[-1]["validation_pair_accuracy"] > 0.5
    assert held_out[-1]["validation_margin"] > 0

    results = read(run / "dpo" / "results.json")
    report = read(run / "dpo" / "data" / "report.json")
    assert results["problems"] == report["examples"]["validation"] > 0
    assert results["interval"][0] < results["value"] <= results["interval"][1]
    assert "held-out pairs: " in done.stderr
    summary = read(run / "dpo" / "stage.json")["summary"]
    assert summary["validation_pair_accuracy"] == pytest.approx(results["value"])
