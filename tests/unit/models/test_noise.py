import numpy as np
import pytest
import torch

from posttrain.config.model import LoraConfig
from posttrain.errors import ConfigError
from posttrain.layout import Segment, SegmentTable, build_batch
from posttrain.models.lora import add_lora
from posttrain.models.noise import add_embedding_noise, draw_noise
from posttrain.models.packed import prepare_packed, score_batch

LENGTHS = (4, 36)


def batch_of(*lengths):
    segments = [Segment(np.arange(5, 5 + n), np.array([0.0] + [1.0] * (n - 1))) for n in lengths]
    return {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in build_batch(segments).items()
    }


def test_the_noise_is_by_the_length_of_each_example():
    table = SegmentTable((0, 4), LENGTHS, (-1, -1))
    noise = draw_noise(table, 32, 5.0, "cpu")
    assert noise.shape == (40, 32)
    for part, length in zip(noise.split(LENGTHS), LENGTHS, strict=True):
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
    wanted = draw_noise(batch["segments"], 32, 5.0, "cpu").split(LENGTHS)
    for left, right in zip(moved, wanted, strict=True):
        assert torch.allclose(left, right, atol=1e-6)


def test_an_example_is_disturbed_alike_in_any_pack(make_model):
    short = draw_noise(SegmentTable((0,), (4,), (-1,)), 32, 5.0, "cpu").abs().max()
    packed = draw_noise(SegmentTable((0, 4), (4, 400), (-1, -1)), 32, 5.0, "cpu")[:4].abs().max()
    assert packed.item() == pytest.approx(short.item(), rel=0.1)


def test_embeddings_go_on_learning_under_noise(make_model):
    model = make_model(attn_implementation="posttrain_sdpa").train()
    prepare_packed(model)
    add_embedding_noise(model, 5.0)
    score_batch(model, batch_of(8)).logprobs_N.sum().backward()
    moved = model.model.embed_tokens.weight.grad.abs().sum(1) > 0
    assert moved[5:12].all()


def test_plain_calls_are_left_alone(make_model):
    model = make_model(attn_implementation="posttrain_sdpa").train()
    add_embedding_noise(model, 50.0)
    model.set_attn_implementation("sdpa")
    ids = torch.arange(3, 20)[None]
    before = make_model().train()(input_ids=ids).logits
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_model_in_padded_rows_is_refused_rather_than_left_undisturbed(make_model):
    with pytest.raises(ConfigError, match="padded rows"):
        add_embedding_noise(make_model(), 5.0)
