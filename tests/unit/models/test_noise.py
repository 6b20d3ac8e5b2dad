import numpy as np
import pytest
import torch

from posttrain.config.model import LoraConfig
from posttrain.layout import Segment, build_batch
from posttrain.models.lora import add_lora
from posttrain.models.noise import add_embedding_noise, draw_noise
from posttrain.models.packed import prepare_packed, score_batch

LENGTHS = (4, 36)
PACKED = torch.tensor([[4] * 4 + [36] * 36])


def batch_of(*lengths):
    segments = [Segment(np.arange(5, 5 + n), np.array([0.0] + [1.0] * (n - 1))) for n in lengths]
    return {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in build_batch(segments).items()
    }


def test_the_noise_is_by_the_length_of_each_example():
    noise = draw_noise(PACKED, 32, 5.0)
    assert noise.shape == (1, 40, 32)
    for part, length in zip(noise[0].split(LENGTHS), LENGTHS, strict=True):
        bound = 5.0 / (length * 32) ** 0.5
        assert 0.9 * bound < part.abs().max() <= bound
        # Of a uniform draw: mean 0, spread bound / sqrt(3).
        assert part.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
        assert abs(part.mean().item()) < 0.15 * bound


@pytest.mark.parametrize("adapters", [False, True])
def test_embeddings_are_disturbed_in_training_only(make_model, adapters):
    model = make_model(attn_implementation="posttrain_sdpa")
    prepare_packed(model)
    seen = []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    if adapters:
        model = add_lora(model, LoraConfig(rank=2))
    batch = batch_of(*LENGTHS)
    model.train()
    score_batch(model, batch)
    add_embedding_noise(model, 5.0)
    torch.manual_seed(3)
    first = score_batch(model, batch).logprobs_N
    torch.manual_seed(3)
    assert torch.equal(score_batch(model, batch).logprobs_N, first)
    model.eval()
    score_batch(model, batch)
    plain, noisy, again, evaluated = seen
    assert torch.equal(plain, evaluated)
    assert torch.equal(noisy, again)
    moved = (noisy - plain)[0].split(LENGTHS)
    torch.manual_seed(3)
    wanted = draw_noise(PACKED, 32, 5.0)[0].split(LENGTHS)
    for left, right in zip(moved, wanted, strict=True):
        assert torch.allclose(left, right, atol=1e-6)


@pytest.mark.parametrize("mask", [True, False])
def test_padded_rows_are_disturbed_by_their_own_lengths(make_model, mask):
    model = make_model().train()
    seen = []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    ids = torch.arange(5, 77).view(2, 36)
    inputs = {"input_ids": ids}
    if mask:
        inputs["attention_mask"] = torch.ones_like(ids)
        inputs["attention_mask"][0, 4:] = 0
    model(**inputs)
    add_embedding_noise(model, 5.0)
    model(**inputs)
    moved = (seen[1] - seen[0]).abs()
    for row, length in enumerate((4 if mask else 36, 36)):
        bound = 5.0 / (length * 32) ** 0.5
        assert 0.9 * bound < moved[row, :length].max() <= bound + 1e-6


def test_embeddings_go_on_learning_under_noise(make_model):
    model = make_model(attn_implementation="posttrain_sdpa").train()
    prepare_packed(model)
    add_embedding_noise(model, 5.0)
    score_batch(model, batch_of(8)).logprobs_N.sum().backward()
    moved = model.model.embed_tokens.weight.grad.abs().sum(1) > 0
    assert moved[5:12].all()


def test_a_model_in_padded_rows_is_disturbed_too():
    from transformers import MambaConfig, MambaForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    model = MambaForCausalLM(MambaConfig(vocab_size=97, pad_token_id=0, **sizes)).train()
    prepare_packed(model)
    batch = batch_of(*LENGTHS)
    plain = score_batch(model, batch).logprobs_N
    add_embedding_noise(model, 5.0)
    assert not torch.allclose(score_batch(model, batch).logprobs_N, plain, atol=1e-3)
    assert torch.equal(score_batch(model.eval(), batch).logprobs_N, plain)
