"""A round's answers: written, packed as trees, dealt to updates."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.config.model import ModelConfig
from posttrain.config.train import GrpoStage, PpoStage
from posttrain.errors import ConfigError
from posttrain.generation.generator import Completion
from posttrain.models.attention import register_attention
from posttrain.models.load import find_model, load_model
from posttrain.models.packed import prepare_packed, score_batch
from posttrain.training.lending import lend
from posttrain.training.policy import set_estimated_advantages, set_group_advantages
from posttrain.training.rollouts import (
    Sample,
    check_room,
    pack_samples,
    split_updates,
    write_samples,
)

FIELDS = ("old_logprobs", "reference_logprobs", "old_values", "advantages", "returns")


def make_stage(kind="grpo", **settings):
    values = {"stage": kind, "data": {"sources": [{"path": "rows.jsonl"}]}, **settings}
    return (GrpoStage if kind == "grpo" else PpoStage).model_validate(values)


def make_samples(sizes, rewards=None, prompt=5):
    """One group per list of answer lengths; every token id of the round is another."""
    ids = iter(range(3, 10_000))
    samples = []
    for group, lengths in enumerate(sizes):
        asked = np.array([next(ids) for _ in range(prompt + group)])
        for length in lengths:
            written = tuple(next(ids) for _ in range(length))
            samples.append(Sample(asked, group, Completion("", length, True, written), 0.0))
    for sample, reward in zip(samples, rewards or (), strict=False):
        sample.reward = reward
    return samples


def mark(samples):
    """Give every token of every field a value that occurs nowhere else."""
    for place, name in enumerate(FIELDS):
        for sample in samples:
            ids = torch.tensor(sample.token_ids, dtype=torch.float32)
            setattr(sample, f"{name}_L", ids + place * 10_000)


@pytest.mark.parametrize("batch_tokens", [4096, 64, 32, 17])
def test_every_token_keeps_its_values_wherever_it_is_packed(batch_tokens):
    samples = make_samples([(3, 7, 1), (9, 2, 4, 4), (1,), (8, 8)])
    mark(samples)
    batches = pack_samples(samples, batch_tokens)
    assert sorted(i for batch in batches for i in batch["order"]) == list(range(len(samples)))
    for batch in batches:
        assert batch["input_ids"].numel() <= batch_tokens
        written = [token for i in batch["order"] for token in samples[i].token_ids]
        assert batch["score_targets"].tolist() == written
        assert batch["score_weights"].tolist() == [1.0] * len(written)
        for place, name in enumerate(FIELDS):
            assert batch[f"{name}_N"].tolist() == [t + place * 10_000 for t in written]
        # An answer's first token is predicted by its own prompt's last one.
        table, ids = batch["segments"], batch["input_ids"][0].tolist()
        answers = [i for i, parent in enumerate(table.parents) if parent >= 0]
        for segment, number in zip(answers, batch["order"], strict=True):
            root = table.parents[segment]
            asked = ids[table.starts[root] :][: table.lengths[root]]
            assert asked == samples[number].prompt.tolist()


def test_a_group_is_one_tree_where_it_fits_and_is_cut_where_it_does_not():
    samples = make_samples([(4, 4, 4, 4)], prompt=6)
    (whole,) = pack_samples(samples, 22)
    assert whole["input_ids"].numel() == 6 + 16
    cut = pack_samples(samples, 14)
    assert [batch["input_ids"].numel() for batch in cut] == [14, 14]
    assert [batch["order"] for batch in cut] == [[0, 1], [2, 3]]


def test_neighbouring_groups_with_the_same_prompt_stay_apart():
    """A round may ask a prompt twice, where there are few prompts."""
    samples = make_samples([(2, 2), (2, 2)])
    for sample in samples:
        sample.prompt = samples[0].prompt
    (batch,) = pack_samples(samples, 100)
    assert batch["segments"].parents == (-1, 0, 0, -1, 3, 3)


def test_fields_that_are_not_set_are_not_in_the_batch():
    samples = make_samples([(2, 3)])
    samples[0].advantages_L = torch.zeros(2)
    (batch,) = pack_samples(samples, 100)
    assert not [name for name in FIELDS if f"{name}_N" in batch]


def test_updates_hold_whole_groups_and_together_all_of_them():
    samples = make_samples([(1, 2)] * 7)
    for updates in (1, 2, 3, 7):
        parts = split_updates(samples, updates, seed=4)
        assert len(parts) == updates
        assert all(parts)
        groups = [{sample.group for sample in part} for part in parts]
        assert sorted(g for part in groups for g in part) == list(range(7))
        assert all(len(part) == 2 * len(held) for part, held in zip(parts, groups, strict=True))
    first, again, other = (split_updates(samples, 3, seed) for seed in (4, 4, 5))
    numbers = [[[s.group for s in part] for part in parts] for parts in (first, again, other)]
    assert numbers[0] == numbers[1] != numbers[2]


def test_room_for_a_prompt_with_its_answer():
    prompts = SimpleNamespace(lengths=np.array([3, 50]))
    check_room(make_stage(max_new_tokens=14, batch_tokens=64), prompts)
    with pytest.raises(ConfigError, match="may have 65 tokens, batch_tokens is 64") as caught:
        check_room(make_stage(max_new_tokens=15, batch_tokens=64), prompts)
    assert "raise batch_tokens" in str(caught.value.hint)


@pytest.fixture(scope="module")
def plain(cache_dir):
    return AutoModelForCausalLM.from_pretrained(find_model("tiny"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prepared(cache_dir):
    register_attention()
    return load_model(
        ModelConfig(path="tiny"),
        attention="posttrain_sdpa",
        dtype="float32",
        prepare=prepare_packed,
    )


PROMPTS = [np.array([40, 41, 42, 43, 44, 45, 46]), np.array([100, 50]), np.array([7, 9, 11, 13])]


def write(model, tokenizer, **settings):
    options = {"completions": 3, "max_new_tokens": 12, "temperature": 1.0, "seed": 1, **settings}
    return write_samples(model, tokenizer, PROMPTS, **options)


def score_plainly(model, sample, temperature):
    ids = torch.tensor([[*sample.prompt.tolist(), *sample.token_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0] / temperature
    start, tokens = len(sample.prompt), torch.tensor(sample.token_ids)
    return logits.log_softmax(-1)[start - 1 : -1].gather(1, tokens[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
@pytest.mark.parametrize("batch_tokens", [4096, 24])
def test_packed_scores_of_written_answers_equal_those_one_by_one(
    plain, prepared, tiny_tokenizer, temperature, batch_tokens
):
    written = write(prepared, tiny_tokenizer, temperature=temperature)
    assert [group for group, _ in written] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    samples = [Sample(PROMPTS[group], group, answer, 0.0) for group, answer in written]
    assert len({sample.token_ids for sample in samples}) > 6
    for batch in pack_samples(samples, batch_tokens):
        with torch.no_grad():
            scores = score_batch(prepared, batch, temperature=temperature)
        expected = [score_plainly(plain, samples[i], temperature) for i in batch["order"]]
        torch.testing.assert_close(scores.logprobs_N, torch.cat(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_answers_are_drawn_from_the_whole_distribution(
    plain, prepared, tiny_tokenizer, temperature
):
    """The mean of -log p over draws is the entropy, if nothing is cut off or bent."""
    prompt = torch.tensor([PROMPTS[0].tolist()])
    with torch.no_grad():
        logp = (plain(prompt).logits[0, -1] / temperature).log_softmax(-1)
    entropy = float(-(logp.exp() * logp).sum())
    written = write_samples(
        prepared,
        tiny_tokenizer,
        PROMPTS[:1],
        completions=2000,
        max_new_tokens=1,
        temperature=temperature,
        seed=3,
    )
    drawn = -logp[torch.tensor([answer.token_ids[0] for _, answer in written])]
    assert float(drawn.mean()) == pytest.approx(entropy, abs=5 * float(drawn.std()) / 2000**0.5)
    assert float(drawn.max()) > entropy


def test_writing_depends_on_its_seed_alone_and_leaves_no_trace(prepared, tiny_tokenizer):
    prepared.train()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = write(prepared, tiny_tokenizer)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert write(prepared, tiny_tokenizer) == first
    assert write(prepared, tiny_tokenizer, seed=2) != first
    assert prepared.training
    assert prepared.config._attn_implementation == "posttrain_sdpa"
    with lend(prepared, writing=True):
        assert not prepared.training
        assert prepared.config._attn_implementation == "sdpa"
    with pytest.raises(RuntimeError, match="broke"), lend(prepared, writing=True):
        raise RuntimeError("broke")
    assert prepared.training
    assert prepared.config._attn_implementation == "posttrain_sdpa"


def test_answers_end_with_the_end_token_or_are_unfinished(prepared, tiny_tokenizer):
    longer = write(prepared, tiny_tokenizer, completions=40, max_new_tokens=20, temperature=2.0)
    for _, answer in longer:
        ended = answer.token_ids[-1] == tiny_tokenizer.eos_token_id
        assert answer.finished == ended
        assert answer.token_count == len(answer.token_ids) >= 1
        assert ended or answer.token_count == 20
        assert tiny_tokenizer.eos_token_id not in answer.token_ids[:-1]


def test_every_token_of_an_answer_has_the_advantage_of_the_answer():
    samples = make_samples([(3, 1), (2, 2), (1, 1)], rewards=[1.0, 0.0, 0.5, 0.5, 0.0, 3.0])
    metrics = set_group_advantages(samples, make_stage(scale="none"))
    assert metrics == {"equal_groups": pytest.approx(1 / 3)}
    found = [sample.advantages_L.tolist() for sample in samples]
    assert found == [[0.5] * 3, [-0.5], [0.0, 0.0], [0.0, 0.0], [-1.5], [1.5]]


def estimate(samples, **settings):
    stage = make_stage("ppo", gamma=1.0, gae_lambda=1.0, **settings)
    return set_estimated_advantages(samples, stage)


def test_estimated_advantages_are_comparable_over_the_round():
    samples = make_samples([(2,), (1,)], rewards=[1.0, 0.0])
    samples[0].old_values_L = torch.tensor([0.5, 0.25])
    samples[1].old_values_L = torch.tensor([0.25])
    metrics = estimate(samples)
    assert samples[0].returns_L.tolist() == [1.0, 1.0]
    assert samples[1].returns_L.tolist() == [0.0]
    raw = torch.tensor([0.5, 0.75, -0.25])
    white = (raw - raw.mean()) / (raw.std(unbiased=False) + 1e-4)
    found = torch.cat([sample.advantages_L for sample in samples])
    torch.testing.assert_close(found, white)
    returns = torch.tensor([1.0, 1.0, 0.0])
    explained = 1 - float(raw.var(unbiased=False) / returns.var(unbiased=False))
    assert metrics["explained_variance"] == pytest.approx(explained)


def test_distance_from_the_reference_is_paid_at_every_token_of_ppo():
    samples = make_samples([(3,), (3,)], rewards=[1.0, 0.0])
    for sample in samples:
        sample.old_values_L = torch.zeros(3)
        sample.old_logprobs_L = torch.tensor([-1.0, -2.0, -3.0])
        sample.reference_logprobs_L = torch.tensor([-1.5, -2.0, -2.0])
    estimate(samples, kl_weight=0.5)
    # Gaps 0.5, 0 and -1 cost -0.25, 0 and +0.5; what comes later counts for the earlier too.
    assert samples[0].returns_L.tolist() == [1.25, 1.5, 1.5]
    assert samples[1].returns_L.tolist() == [0.25, 0.5, 0.5]


def test_estimates_that_were_right_leave_no_advantage():
    samples = make_samples([(4,), (2,), (1,)], rewards=[0.1, 0.1, 0.1])
    for sample in samples:
        sample.old_values_L = torch.full((len(sample.token_ids),), 0.1)
    metrics = estimate(samples)
    for sample in samples:
        assert sample.advantages_L.abs().max() < 1e-3
    assert metrics["explained_variance"] == pytest.approx(0.0, abs=1e-3)
