"""Our policy losses and their gradients are those of TRL and of plain formulas on the same rows."""

import os
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.config.train import GrpoStage, PpoStage
from posttrain.generation.generator import Completion
from posttrain.models.packed import prepare_packed
from posttrain.training.policy import (
    PolicyObjective,
    set_estimated_advantages,
    set_group_advantages,
)
from posttrain.training.rollouts import Sample, pack_samples
from tests.reference.test_dpo import VOCABULARY, build_model

# Answers of each group, and their rewards.
GROUPS = [(9, (5, 7, 2)), (4, (8, 3, 6)), (6, (2, 12, 4))]
REWARDS = [1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 0.2, 0.9, 0.4]
SETTINGS = [
    {},
    {"kl_weight": 0.3},
    {"clip_low": 0.1, "clip_high": 0.4},
    {"temperature": 0.7},
    {"scale": "none"},
    {"kl_weight": 0.2, "temperature": 1.3, "clip_low": 0.05, "clip_high": 0.02},
]
NAMES = ["plain", "kl", "bounds", "temperature", "unscaled", "all"]


def make_samples(stage: Any) -> list[Sample]:
    """Answers that another model wrote, seen by a third one as reference."""
    random = np.random.default_rng(5)
    samples = []
    for group, (asked, lengths) in enumerate(GROUPS):
        prompt = random.integers(2, VOCABULARY, asked)
        for length in lengths:
            ids = tuple(random.integers(2, VOCABULARY, length).tolist())
            reward = REWARDS[len(samples)]
            samples.append(Sample(prompt, group, Completion("", length, True, ids), reward))
    for name, seed in (("old_logprobs_L", 2), ("reference_logprobs_L", 3)):
        model = build_model(seed)
        for sample in samples:
            logprobs = score_plainly(model, sample, stage.temperature)
            setattr(sample, name, logprobs.detach())
    if not stage.kl_weight:
        for sample in samples:
            sample.reference_logprobs_L = None
    return samples


def score_plainly(model: Any, sample: Sample, temperature: float) -> torch.Tensor:
    """One answer at a time, through transformers alone."""
    ids = torch.tensor([[*sample.prompt.tolist(), *sample.token_ids]])
    logp = (model(ids).logits[0] / temperature).log_softmax(-1)
    targets = torch.tensor(sample.token_ids)
    return logp[len(sample.prompt) - 1 : -1].gather(1, targets[:, None])[:, 0]


def our_loss(stage: Any, samples: list[Sample], batch_tokens: int, value_head: Any = None) -> Any:
    policy = build_model(1, "posttrain_sdpa")
    prepare_packed(policy, value_head)
    objective = PolicyObjective(stage)
    batches = pack_samples(samples, batch_tokens)
    total = torch.stack([objective.weigh(batch) for batch in batches]).sum()
    loss = 0.0
    for batch in batches:
        result = objective.measure(policy, batch, total)
        result.loss.backward()
        loss += float(result.loss.detach())
    return loss, policy


def pad(rows: list[Any], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row in rows)
    values = torch.zeros(len(rows), width, dtype=torch.as_tensor(rows[0]).dtype)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        values[i, place] = torch.as_tensor(row)
        mask[i, place] = 1
    return values, mask


def their_loss(stage: Any, samples: list[Sample], folder: Any) -> Any:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's own, of its dependencies' changes
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        from posttrain.models.tiny import train_tokenizer

        policy = build_model(1)
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=lambda completions, **rest: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=str(folder),
                use_cpu=True,
                bf16=False,
                report_to=[],
                disable_tqdm=True,
                gradient_checkpointing=False,
                loss_type="bnpo",  # mean over all tokens
                epsilon=stage.clip_low,
                epsilon_high=stage.clip_high,
                temperature=stage.temperature,
                use_bias_correction_kl=False,  # the estimator as the GRPO paper has it
                per_device_train_batch_size=len(samples),
                num_generations=len(samples) // len(GROUPS),
            ),
            train_dataset=Dataset.from_list([{"prompt": "a"}] * len(samples)),
            processing_class=train_tokenizer(),
        )
        trainer.beta = stage.kl_weight  # asked for earlier, it would load a reference by name
        trainer.current_gradient_accumulation_steps = 1
        prompts, prompt_mask = pad([s.prompt for s in samples], left=True)
        answers, answer_mask = pad([s.token_ids for s in samples], left=False)
        inputs = {
            "prompt_ids": prompts,
            "prompt_mask": prompt_mask,
            "completion_ids": answers,
            "completion_mask": answer_mask,
            "advantages": torch.stack([s.advantages_L[0] for s in samples]),
            "old_per_token_logps": pad([s.old_logprobs_L for s in samples], left=False)[0],
        }
        if stage.kl_weight:
            rows = [s.reference_logprobs_L for s in samples]
            inputs["ref_per_token_logps"] = pad(rows, left=False)[0]
        loss = trainer.compute_loss(policy.train(), inputs)
        loss.backward()
    return float(loss.detach()), policy


def assert_same_gradients(ours: Any, theirs: Any) -> None:
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        scale = wanted[name].norm().clamp_min(1e-3)
        distance = float((parameter.grad - wanted[name]).norm() / scale)
        assert distance < 1e-5, name


def make_grpo(settings: dict[str, Any]) -> GrpoStage:
    data = {"sources": [{"path": "rows.jsonl"}]}
    return GrpoStage.model_validate({"stage": "grpo", "data": data, **settings})


@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
@pytest.mark.parametrize("batch_tokens", [4096, 24], ids=["one", "cut"])
def test_grpo_loss_and_gradients_equal_trl(settings, batch_tokens, tmp_path):
    stage = make_grpo(settings)
    samples = make_samples(stage)
    set_group_advantages(samples, stage)
    found, policy = our_loss(stage, samples, batch_tokens)
    expected, other = their_loss(stage, samples, tmp_path)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert_same_gradients(policy, other)


def test_group_advantages_equal_the_formula_of_trl():
    stage = make_grpo({})
    samples = make_samples(stage)
    set_group_advantages(samples, stage)
    rewards = torch.tensor(REWARDS).view(len(GROUPS), -1)
    # trl.GRPOTrainer, scale_rewards="group"
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    found = torch.stack([sample.advantages_L[0] for sample in samples])
    torch.testing.assert_close(found, expected.flatten())


def test_the_losses_differ_from_each_other():
    """Guards the comparison: equal numbers for all settings would prove nothing."""
    values = []
    for settings in SETTINGS:
        stage = make_grpo(settings)
        samples = make_samples(stage)
        set_group_advantages(samples, stage)
        values.append(round(our_loss(stage, samples, 4096)[0], 6))
    assert len(set(values)) == len(values)


def plain_ppo(stage: PpoStage, samples: list[Sample], head: torch.nn.Linear) -> Any:
    """PPO as it is written down: no packing, no shared code."""
    model = build_model(1)
    terms = []
    for sample in samples:
        ids = torch.tensor([[*sample.prompt.tolist(), *sample.token_ids]])
        output = model(ids, output_hidden_states=True)
        places = slice(len(sample.prompt) - 1, -1)
        values = head(output.hidden_states[-1][0, places])[:, 0]
        ratio = (score_plainly(model, sample, stage.temperature) - sample.old_logprobs_L).exp()
        held = ratio.clamp(1 - stage.clip_low, 1 + stage.clip_high)
        gain = torch.min(ratio * sample.advantages_L, held * sample.advantages_L)
        near = sample.old_values_L + (values - sample.old_values_L).clamp(
            -stage.value_clip, stage.value_clip
        )
        errors = torch.max((values - sample.returns_L) ** 2, (near - sample.returns_L) ** 2)
        terms.append(-gain + stage.value_weight * 0.5 * errors)
    loss = torch.cat(terms).mean()
    loss.backward()
    return float(loss.detach()), model


def make_head() -> torch.nn.Linear:
    head = torch.nn.Linear(32, 1)
    torch.manual_seed(9)
    with torch.no_grad():
        head.weight.copy_(torch.randn_like(head.weight) * 0.3)
        head.bias.fill_(0.1)
    return head


@pytest.mark.parametrize("batch_tokens", [4096, 24], ids=["one", "cut"])
def test_ppo_loss_and_gradients_equal_a_plain_computation(batch_tokens):
    settings = {"value_weight": 0.5, "value_clip": 0.3, "temperature": 0.8, "kl_weight": 0.1}
    data = {"sources": [{"path": "rows.jsonl"}]}
    stage = PpoStage.model_validate({"stage": "ppo", "data": data, **settings})
    samples = make_samples(stage)
    random = np.random.default_rng(2)
    for sample in samples:
        sample.old_values_L = torch.from_numpy(random.normal(size=len(sample.token_ids))).float()
    set_estimated_advantages(samples, stage)
    head, other_head = make_head(), make_head()
    found, policy = our_loss(stage, samples, batch_tokens, head)
    expected, other = plain_ppo(stage, samples, other_head)
    assert found == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(policy, other)
    assert_same_gradients(head, other_head)
