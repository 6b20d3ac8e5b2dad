"""GRPO and PPO through the command line, after fine-tuning and before an evaluation."""

import json
import re
from pathlib import Path

import pytest

from posttrain.files import load_jsonl

pytestmark = pytest.mark.slow

RECIPE = """\
name: small
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: train-data, kind: math, num: 300, seed: 1}
  - {stage: sample-data, name: test-data, kind: math, num: 12, seed: 2}
  - {stage: sft, data: {sources: [{from_stage: train-data}]}, steps: 30, batch_tokens: 2048,
     learning_rate: 4e-3}
  - stage: grpo
    data: &prompts {sources: [{from_stage: train-data}], split: {validation: 0.03}}
    rewards: {answer: 1.0, format: 0.5}
    rollouts: 2
    prompts_per_rollout: 8
    completions: 4
    max_new_tokens: 64
    updates_per_rollout: 2
    learning_rate: 1e-4
    kl_weight: 0.02
    log_every_steps: 1
  - {stage: ppo, data: *prompts, rewards: {answer: 1.0, format: 0.5}, rollouts: 2,
     prompts_per_rollout: 12, max_new_tokens: 64, learning_rate: 1e-4, log_every_steps: 1}
  - stage: evaluate
    tasks: [{task: gsm8k, data: {from_stage: test-data}, max_new_tokens: 64}]
"""
BARE = """\
name: bare
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: grpo, data: {sources: [{path: rows.jsonl}]}, rollouts: 2, prompts_per_rollout: 2,
     completions: 2, max_new_tokens: 4}
"""


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_fine_tuned_model_goes_on_with_grpo_and_ppo(cli, tmp_path):
    (tmp_path / "small.yaml").write_text(RECIPE)
    done = cli("run", "small.yaml")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "small"
    for stage, parent in (("grpo", "sft"), ("ppo", "grpo")):
        lineage = read(run / stage / "lineage.json")
        assert lineage["parent_model"] == str(run / parent / "final")
        assert lineage["parent_digest"] == read(run / parent / "stage.json")["digest"]
        lines = load_jsonl(run / stage / "metrics.jsonl")
        told = [line for line in lines if "reward" in line]
        assert [line["step"] for line in told] == ([1, 2, 3, 4] if stage == "grpo" else [1, 2])
        for line in told:
            parts = line["reward_answer"] + 0.5 * line["reward_format"]
            assert line["reward"] == pytest.approx(parts)
            assert 0 < line["reward"] <= 1.5
            assert 1 < line["completion_tokens"] <= 64
            assert 0 <= line["unfinished"] < 1
        summary = read(run / stage / "stage.json")["summary"]
        (held_out,) = [line for line in lines if "validation_accuracy" in line]
        assert summary["validation_accuracy"] == held_out["validation_accuracy"]
        assert not (run / stage / "final" / "value_head.safetensors").exists()
    first = load_jsonl(run / "grpo" / "metrics.jsonl")[0]
    assert first["reference_kl"] == pytest.approx(0, abs=1e-6)
    (results,) = run.glob("evaluate/*/results.json")
    assert read(results)["problems"] == 12
    page = (run / "report.html").read_text()
    for title in ("Reward", "Tokens per answer", "Unfinished answers", "Value loss"):
        assert title in page, title
    plan = cli("plan", "small.yaml").stdout
    assert "2 rounds x 8 prompts x 4 answers = 64 answers of up to 64 tokens" in plan
    assert "2 rounds x 1 passes x 2 updates = 4 optimizer steps" in plan


SUM = {"prompt": "What is 1 plus 1?", "reference": "2"}
MISTAKES = [
    # what is changed, the row of data, status, the one line
    ([], {"prompt": "Say something"}, 3, r"rows\.jsonl:1: no reference answer to grade against"),
    (["stages.0.batch_tokens=16"], SUM, 2, "may have .* tokens, batch_tokens is 16"),
    (["stages.0.completions=1"], SUM, 2, "a group needs at least 2 completions"),
    (["stages.0.updates_per_rollout=3"], SUM, 2, r"`updates_per_rollout` \(3\) is above"),
    (["stages.0.rewards.answer=0"], SUM, 2, "nothing is rewarded"),
]


@pytest.mark.parametrize(("overrides", "row", "status", "line"), MISTAKES)
def test_mistakes_get_one_line(cli, tmp_path, overrides, row, status, line):
    (tmp_path / "bare.yaml").write_text(BARE)
    rows = [{**row, "prompt": f"{row['prompt']} {n}"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    done = cli("train", "bare.yaml", *overrides)
    assert done.returncode == status, done.stderr
    assert re.search(line, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert sum("error" in text.lower() for text in done.stderr.splitlines()) == 1
