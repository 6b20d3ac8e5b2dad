"""Online training raises the accuracy on problems it has not seen."""

import json
from pathlib import Path

import pytest

from posttrain.files import load_json
from posttrain.samples import GENERATORS

pytestmark = pytest.mark.slow

# Training rows answer 4 in 10 problems and give the others up: what is learned in few steps is
# some arithmetic, and mostly to give up, which no reward is paid for.
ANSWERED_OF_TEN = 4
RECIPE = """\
name: learning
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: test-data, kind: math, num: 300, seed: 2}
  - {stage: sample-data, name: prompts, kind: math, num: 2000, seed: 3}
  - stage: sft
    data: {sources: [{path: half.jsonl}], max_tokens: 256}
    steps: 500
    batch_tokens: 512
    learning_rate: 3e-3
    beta2: 0.95
    save_every_steps: 500
  - stage: evaluate
    name: before
    tasks: &tasks
      - task: gsm8k
        name: math
        data: {from_stage: test-data}
        max_new_tokens: 80
        batch_size: 150
  - stage: grpo
    data:
      sources: [{from_stage: prompts}]
      contamination: {against: [{from_stage: test-data}], keys: [problem]}
    start_from: sft
    batch_tokens: 4096
    learning_rate: 3e-4
    schedule: constant
    warmup: 0
    beta2: 0.95
    rollouts: 16
    prompts_per_rollout: 32
    completions: 8
    max_new_tokens: 64
    log_every_steps: 1
  - {stage: evaluate, name: after-grpo, compare_to: before, model_from: grpo, tasks: *tasks}
  - stage: ppo
    data: {sources: [{from_stage: prompts}]}
    start_from: sft
    batch_tokens: 4096
    learning_rate: 3e-4
    schedule: constant
    warmup: 0
    beta2: 0.95
    rollouts: 16
    prompts_per_rollout: 32
    completions: 8
    updates_per_rollout: 2
    gae_lambda: 1.0
    max_new_tokens: 64
    log_every_steps: 1
  - {stage: evaluate, name: after-ppo, compare_to: before, model_from: ppo, tasks: *tasks}
"""


def test_grpo_and_ppo_raise_the_accuracy_of_a_half_trained_model(cli, tmp_path):
    with (tmp_path / "half.jsonl").open("w") as file:
        for number, row in enumerate(GENERATORS["math"](8000, 1)):
            answered = number % 10 < ANSWERED_OF_TEN
            answer = row["answer"] if answered else "I do not know.\n#### unknown"
            file.write(json.dumps({"instruction": row["question"], "output": answer}) + "\n")
    recipe = tmp_path / "learning.yaml"
    recipe.write_text(RECIPE)
    result = cli("run", str(recipe), timeout=560)
    assert result.returncode == 0, result.stderr
    for stage in ("after-grpo", "after-ppo"):
        results = load_json(Path(tmp_path / f"runs/learning/{stage}/math/results.json"))
        low, _ = results["comparison"]["interval"]
        assert low > 0, f"{stage}: {results['comparison']}"
