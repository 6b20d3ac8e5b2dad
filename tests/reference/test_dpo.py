"""Our preference losses and their gradients are TRL's on the same rows."""

import os
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from posttrain.config.train import DpoStage
from posttrain.layout import NO_PARENT, Segment, build_batch
from posttrain.models.attention import register_attention
from posttrain.models.packed import prepare_packed
from posttrain.training.preference import PreferenceObjective, score_answers

VOCABULARY = 97
# Lengths of prompt, chosen and rejected answer.
PAIRS = [(9, 5, 7), (4, 8, 3), (6, 2, 12)]
LOSSES = [
    ({"beta": 0.1}, {"beta": 0.1}),
    ({"beta": 0.7}, {"beta": 0.7}),
    ({"beta": 0.3, "loss": "hinge"}, {"beta": 0.3, "loss_type": ["hinge"]}),
    ({"beta": 0.2, "loss": "ipo"}, {"beta": 0.2, "loss_type": ["ipo"]}),
]
# TRL sorts the margins of a batch for `aot`; on a single pair it is DPO with smoothed labels. Its
# likelihood term is a mean over the batch's tokens, ours over pairs; on one pair they agree.
SINGLE = [
    (
        {"beta": 0.4, "label_smoothing": 0.15},
        {"beta": 0.4, "loss_type": ["aot"], "label_smoothing": 0.15},
    ),
    (
        {"beta": 0.4, "sft_weight": 0.5},
        {"beta": 0.4, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    ),
]


def build_model(seed: int, attention: str = "eager") -> Any:
    register_attention()
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    config._attn_implementation = attention
    torch.manual_seed(3)
    model = Qwen3ForCausalLM(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_rows(count: int) -> list[dict[str, list[int]]]:
    random = np.random.default_rng(5)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        {
            name: random.integers(2, VOCABULARY, n).tolist()
            for name, n in zip(names, lengths, strict=True)
        }
        for lengths in PAIRS[:count]
    ]


def make_batch(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    segments: list[Segment] = []
    for row in rows:
        root = len(segments)
        for name, parent in (
            ("prompt_ids", NO_PARENT),
            ("chosen_ids", root),
            ("rejected_ids", root),
        ):
            ids = np.array(row[name])
            segments.append(Segment(ids, np.full(len(ids), float(parent >= 0)), parent))
    packed = build_batch(segments).items()
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in packed}


def our_loss(rows: list[dict[str, list[int]]], settings: dict[str, Any]) -> tuple[float, Any]:
    stage = DpoStage.model_validate(
        {"stage": "dpo", "data": {"sources": [{"path": "rows.jsonl"}]}, **settings}
    )
    policy, reference = (build_model(seed, "posttrain_sdpa") for seed in (1, 2))
    for model in (policy, reference):
        prepare_packed(model)
    batch = make_batch(rows)
    with torch.no_grad():
        batch["reference_logprobs"] = score_answers(reference, batch)[0]
    objective = PreferenceObjective(stage)
    result = objective.measure(policy, batch, objective.weigh(batch))
    result.loss.backward()
    return float(result.loss.detach()), policy


def their_loss(rows: list[dict[str, list[int]]], settings: dict[str, Any], folder: Any) -> Any:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's own, of its dependencies' changes
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer
        from trl.trainer.dpo_trainer import DataCollatorForPreference

        from posttrain.models.tiny import train_tokenizer

        tokenizer: PreTrainedTokenizerFast = train_tokenizer()
        texts = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * len(rows)
        policy = build_model(1)
        trainer = DPOTrainer(
            model=policy,
            ref_model=build_model(2),
            args=DPOConfig(
                output_dir=str(folder),
                use_cpu=True,
                bf16=False,
                report_to=[],
                disable_tqdm=True,
                gradient_checkpointing=False,
                **settings,
            ),
            train_dataset=Dataset.from_list(texts),
            processing_class=tokenizer,
        )
        inputs = DataCollatorForPreference(pad_token_id=0)(rows)
        loss = trainer.compute_loss(policy.train(), inputs)
        loss.backward()
    return float(loss.detach()), policy


@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [(*pair, len(PAIRS)) for pair in LOSSES] + [(*pair, 1) for pair in SINGLE],
    ids=["sigmoid", "beta", "hinge", "ipo", "smoothed", "likelihood"],
)
def test_loss_and_gradients_equal_trl(ours, theirs, count, tmp_path):
    rows = make_rows(count)
    found, policy = our_loss(rows, ours)
    expected, other = their_loss(rows, theirs, tmp_path)
    assert found == pytest.approx(expected, rel=1e-5)
    grads = dict(other.named_parameters())
    for name, parameter in policy.named_parameters():
        wanted = grads[name].grad
        distance = float((parameter.grad - wanted).norm() / wanted.norm().clamp_min(1e-3))
        assert distance < 1e-5, name


def test_the_losses_differ_from_each_other():
    """Guards the comparison: equal numbers for all settings would prove nothing."""
    values = [round(our_loss(make_rows(1), ours)[0], 6) for ours, _ in LOSSES + SINGLE]
    assert len(set(values)) == len(values)
