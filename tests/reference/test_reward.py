"""The packed reward model's loss and gradients are TRL's on the same rows."""

import os
import warnings
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from posttrain.models.attention import register_attention
from posttrain.models.heads import end_positions, prepare_reward
from posttrain.training.reward import RewardObjective
from tests.reference.test_dpo import PAIRS, VOCABULARY, make_batch, make_rows


def build_model(attention: str = "eager") -> Any:
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
        num_labels=1,
    )
    config._attn_implementation = attention
    torch.manual_seed(3)
    model = Qwen3ForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def our_loss(rows: list[dict[str, list[int]]]) -> tuple[Any, Any]:
    model = build_model("posttrain_sdpa")
    prepare_reward(model)
    batch = make_batch(rows)
    batch["end_positions"] = torch.from_numpy(end_positions(batch["segments"]))
    objective = RewardObjective()
    result = objective.measure(model, batch, objective.weigh(batch))
    result.loss.backward()
    return result, model


def their_loss(
    rows: list[dict[str, list[int]]], folder: Any
) -> tuple[float, dict[str, float], Any]:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's own, of its dependencies' changes
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer
        from trl.trainer.reward_trainer import DataCollatorForPreference

        from posttrain.models.tiny import train_tokenizer

        model = build_model()
        whole = [
            {name: row["prompt_ids"] + row[name] for name in ("chosen_ids", "rejected_ids")}
            for row in rows
        ]
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                output_dir=str(folder),
                use_cpu=True,
                bf16=False,
                report_to=[],
                disable_tqdm=True,
                gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_list(whole),
            processing_class=train_tokenizer(),
        )
        loss = trainer.compute_loss(model.train(), DataCollatorForPreference(pad_token_id=0)(whole))
        loss.backward()
    means = {name: values[0] for name, values in trainer._metrics["train"].items() if values}
    return float(loss.detach()), means, model


def test_loss_gradients_and_metrics_equal_trl(tmp_path):
    rows = make_rows(len(PAIRS))
    found, model = our_loss(rows)
    expected, means, other = their_loss(rows, tmp_path)
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-5)
    grads = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        wanted = grads[name].grad
        distance = float((parameter.grad - wanted).norm() / wanted.norm().clamp_min(1e-3))
        assert distance < 1e-5, name
    ours = {name: float(total) / len(PAIRS) for name, total in found.sums.items()}
    assert ours["margin"] == pytest.approx(means["margin"], abs=1e-5)
    assert ours["pair_accuracy"] == pytest.approx(means["accuracy"])
