"""What of a model is trained, as a user says it: from added tokens to a merged, measured model."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.stages.test_mistakes import complain

TEXT = "\n\n".join(
    f"患者{name}，确诊糖尿病{number}年，口服二甲双胍控制血糖。建议复查糖化血红蛋白。"
    for number, name in enumerate("张王李赵刘陈杨黄周吴徐孙", start=2)
)
RECIPE = """\
name: clinic
model: {path: tiny}
tuning: lora
lora: {rank: 4, dora: true, rank_pattern: {mlp: 6}, train_in_full: [model.norm]}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: problems, kind: math, num: 60, seed: 1}
  - stage: extend-tokenizer
    texts: [{path: clinic.txt}]
    new_tokens: 40
    min_frequency: 4
  - stage: pretrain
    data: {sources: [{path: clinic.txt}], block_tokens: 64}
    steps: 4
    batch_tokens: 512
    learning_rate: 1e-2
  - stage: evaluate
    name: tuned
    tasks: &tasks
      - {task: gsm8k, data: {from_stage: problems, limit: 4}, max_new_tokens: 4, batch_size: 4}
  - {stage: merge, max_new_tokens: 4}
  - {stage: evaluate, name: merged, compare_to: tuned, tasks: *tasks}
  - {stage: quantize, method: int8, data: {from_stage: problems}}
  - stage: sft
    start_from: merge
    tuning: full
    train_only: [layers.1, lm_head]
    neftune_alpha: 5
    data: {sources: [{from_stage: problems}]}
    steps: 2
    batch_tokens: 512
"""


@pytest.fixture(autouse=True)
def clinic(tmp_path):
    (tmp_path / "clinic.txt").write_text(TEXT)
    (tmp_path / "clinic.yaml").write_text(RECIPE)


def read(path):
    return json.loads(path.read_text())


def test_rows_of_added_tokens_are_trained_merged_and_measured(cli, tmp_path):
    result = cli("run", "clinic.yaml")
    assert result.returncode == 0, result.stderr
    assert "; 40 rows of model.embed_tokens" in result.stderr
    assert "model.norm in full" in result.stderr
    run = tmp_path / "runs" / "clinic"
    merged = read(run / "merge/final/merge.json")
    assert merged["agreement"]["relative_difference"] < 1e-5 < merged["adapter_effect"]
    place = "model.embed_tokens.weight"
    before = load_file(run / "extend-tokenizer/final/model.safetensors")[place]
    after = load_file(run / "merge/final/model.safetensors")[place]
    moved = (before != after).any(1).nonzero()[:, 0].tolist()
    added = read(run / "extend-tokenizer/final/vocabulary.json")["tokens"]
    assert moved == sorted(token["id"] for token in added)
    answers = [
        [row["completion"] for row in map(json.loads, lines.read_text().splitlines())]
        for lines in (run / name / "gsm8k/records.jsonl" for name in ("tuned", "merged"))
    ]
    assert answers[0] == answers[1]
    small = read(run / "quantize/final/quantization.json")
    assert small["weight_bytes"] < small["weight_bytes_before"]
    final = load_file(run / "sft/final/model.safetensors")
    whole = load_file(run / "merge/final/model.safetensors")
    kept = {name for name in whole if torch.equal(whole[name].float(), final[name])}
    frozen = ("model.layers.0.", "model.layers.2.", "model.norm.")
    assert kept == {name for name in whole if name.startswith(frozen)}
    # Its second run trains no rows again: what an adapter starts from now has learned them.
    assert cli("run", "clinic.yaml").stderr.count("unchanged, not run again") == 8


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lora.targets=[query]", ("lora.targets: `query`", "model.layers.0-2.self_attn.q_proj")),
        ("lora.rank_pattern={q_pro: 4}", ("lora.rank_pattern: `q_pro` names nothing",)),
        ("lora.train_rows=[no-such-token]", ("lora.train_rows: 'no-such-token' is no token",)),
        ("lora.layers=0-9", ("lora.layers: 0-9 is no layer", "layers 0 to 2")),
        ("freeze=[layers.0]", ("`freeze` is of `tuning: full`",)),
    ],
)
def test_a_name_that_is_not_there_is_said_before_training(cli, tmp_path, setting, said):
    (tmp_path / "small.yaml").write_text(
        "name: small\nmodel: {path: tiny}\ntuning: lora\nstages:\n"
        "  - {stage: sample-data, name: problems, kind: math, num: 40}\n"
        "  - {stage: sft, data: {sources: [{from_stage: problems}]}, steps: 1}\n"
    )
    complain(cli("plan", "small.yaml", setting), 2, *said)


def test_names_of_a_later_stage_are_looked_for_at_once(cli, tmp_path):
    result = cli("run", "clinic.yaml", "stages.sft.train_only=[layers.9]")
    complain(result, 2, "train_only: `layers.9` names nothing", "model.layers.0-2")
    assert not (tmp_path / "runs/clinic/extend-tokenizer").exists()
