"""A packed forest gives what transformers itself gives for each path of it, one by one."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from posttrain.layout import NO_PARENT, Segment, build_batch
from posttrain.models.attention import register_attention
from posttrain.models.packed import prepare_packed, score_batch
from posttrain.training.objective import LanguageObjective

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
FAMILIES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
# Parent and length of each segment: two trees three generations deep, loners, a one-token child.
FOREST = [(-1, 9), (0, 5), (0, 7), (1, 4), (1, 1), (-1, 2), (-1, 13), (6, 3), (7, 6), (-1, 8)]
FLAT = [(-1, 9), (-1, 8), (-1, 3), (-1, 17), (-1, 2), (-1, 9)]


@pytest.fixture(params=[("qwen3", True), ("qwen3", False), ("llama", True), ("llama", False)])
def model(request: pytest.FixtureRequest) -> Any:
    family, tied = request.param
    return build_model(family, tied)


def build_model(family: str, tied: bool) -> Any:
    config_class, model_class = FAMILIES[family]
    torch.manual_seed(3)
    model = model_class(config_class(**SHAPE, tie_word_embeddings=tied)).train()
    with torch.no_grad():  # away from the initial weights, where attention is close to uniform
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def as_packed(model: Any, back_end: str) -> Any:
    """A copy of the model on one of our back ends."""
    register_attention()
    config = type(model.config)(**model.config.to_dict())
    config._attn_implementation = f"posttrain_{back_end}"
    packed = type(model)(config).train()
    packed.load_state_dict(model.state_dict())
    prepare_packed(packed)
    return packed


def make_segments(forest: list[tuple[int, int]]) -> list[Segment]:
    """Random tokens; a third of them without loss, the others with uneven weights."""
    random = np.random.default_rng(7)
    segments = []
    for parent, length in forest:
        weights = random.choice([0.0, 0.5, 1.0], size=length)
        weights[-1] = 1.0
        if parent == NO_PARENT:
            weights[0] = 0.0
        segments.append(Segment(random.integers(2, 97, length), weights, parent))
    return segments


def to_tensors(segments: list[Segment]) -> dict[str, Any]:
    packed = build_batch(segments).items()
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in packed}


def paths(segments: list[Segment]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each segment with its ancestors before it: ids, and weights that are 0 on the ancestors."""
    for segment in segments:
        ids, weights = list(segment.token_ids), list(segment.weights)
        above = segment.parent
        while above != NO_PARENT:
            ids = [*segments[above].token_ids, *ids]
            weights = [0.0] * len(segments[above].token_ids) + weights
            above = segments[above].parent
        yield torch.tensor(ids), torch.tensor(weights)


def score_one_by_one(model: Any, segments: list[Segment]) -> list[Tensor]:
    """Log-probability, entropy, top-1 correctness and weight of every scored token."""
    columns: list[list[Tensor]] = [[], [], [], []]
    for ids, weights in paths(segments):
        logits = model(input_ids=ids[None]).logits[0, :-1].float()
        logp, target, chosen = logits.log_softmax(-1), ids[1:], weights[1:] != 0
        row = [
            logp.gather(-1, target[:, None])[:, 0],
            -(logp.exp() * logp).sum(-1),
            (logits.argmax(-1) == target).float(),
            weights[1:],
        ]
        for column, values in zip(columns, row, strict=True):
            column.append(values[chosen])
    return [torch.cat(column) for column in columns]


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def one_by_one_gradients(model: Any, segments: list[Segment], autocast: Any) -> dict[str, Tensor]:
    with autocast:
        logprobs, _, _, weights = score_one_by_one(model, segments)
    (-(logprobs * weights).sum() / weights.sum()).backward()
    return gradients(model)


def packed_gradients(model: Any, segments: list[Segment], autocast: Any) -> dict[str, Tensor]:
    batch = to_tensors(segments)
    with autocast:
        logprobs = score_batch(model, batch).logprobs_N
    weights = batch["score_weights"]
    (-(logprobs * weights).sum() / weights.sum()).backward()
    return gradients(model)


def worst_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative distance over all parameters."""
    assert found.keys() == expected.keys()
    return max(
        float((found[n] - expected[n]).norm() / expected[n].norm().clamp_min(1e-12))
        for n in expected
    )


def total_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    names = sorted(expected)
    a, b = (torch.cat([g[n].flatten() for n in names]) for g in (found, expected))
    return float((a - b).norm() / b.norm())


# On a CPU FlexAttention runs uncompiled: torch warns of the memory, which is little here.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("forest", [FOREST, FLAT], ids=["forest", "flat"])
@pytest.mark.parametrize("back_end", ["eager", "sdpa", "flex"])
def test_packed_scores_equal_transformers_one_by_one(model, back_end, forest):
    segments = make_segments(forest)
    batch = to_tensors(segments)
    with torch.no_grad():
        expected = score_one_by_one(model, segments)
        found = score_batch(as_packed(model, back_end), batch)
    torch.testing.assert_close(found.logprobs_N, expected[0], rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(found.entropy_N, expected[1], rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(found.correct_N, expected[2], rtol=0, atol=0)
    torch.testing.assert_close(batch["score_weights"], expected[3].float(), rtol=0, atol=0)


@pytest.mark.parametrize("forest", [FOREST, FLAT], ids=["forest", "flat"])
@pytest.mark.parametrize("back_end", ["eager", "sdpa"])
def test_packed_gradients_equal_transformers_one_by_one(model, back_end, forest):
    segments = make_segments(forest)
    expected = one_by_one_gradients(model, segments, nullcontext())
    found = packed_gradients(as_packed(model, back_end), segments, nullcontext())
    assert worst_difference(found, expected) < 1e-5


@pytest.mark.parametrize("back_end", ["eager", "sdpa"])
def test_packed_gradients_in_bf16_are_as_good_as_those_of_transformers(model, back_end):
    segments = make_segments(FOREST)
    exact = one_by_one_gradients(model, segments, nullcontext())
    model.zero_grad()
    model.set_attn_implementation(back_end)
    theirs = one_by_one_gradients(model, segments, torch.autocast("cpu", torch.bfloat16))
    ours = packed_gradients(
        as_packed(model, back_end), segments, torch.autocast("cpu", torch.bfloat16)
    )
    assert total_difference(ours, exact) < 0.03
    assert total_difference(ours, exact) < 1.25 * total_difference(theirs, exact)


@pytest.mark.parametrize("back_end", ["eager", "sdpa"])
def test_activation_checkpointing_changes_no_gradient(model, back_end):
    segments = make_segments(FOREST)
    plain = packed_gradients(as_packed(model, back_end), segments, nullcontext())
    sparing = as_packed(model, back_end)
    rename = getattr(sparing, "activation_checkpointing_enable", None)
    (rename or sparing.gradient_checkpointing_enable)({"use_reentrant": False})
    assert worst_difference(packed_gradients(sparing, segments, nullcontext()), plain) == 0


def test_packed_loss_equals_the_loss_transformers_computes_from_labels(model):
    segments = make_segments(FLAT)
    segments = [Segment(s.token_ids, (s.weights != 0).astype(float)) for s in segments]
    total = count = 0.0
    for ids, weights in paths(segments):
        labels = torch.where(weights != 0, ids, -100)
        supervised = int((labels[1:] != -100).sum())
        total += float(model(input_ids=ids[None], labels=labels[None]).loss.detach()) * supervised
        count += supervised
    batch = to_tensors(segments)
    logprobs = score_batch(as_packed(model, "sdpa"), batch).logprobs_N
    assert float(-logprobs.detach().mean()) == pytest.approx(total / count, rel=1e-6)


def test_a_segment_is_blind_to_all_but_its_ancestors(model):
    segments = make_segments(FOREST)
    changed = list(segments)
    # Another prompt for the second tree: the first tree and the loners must not notice.
    changed[6] = Segment(98 - segments[6].token_ids, segments[6].weights)
    packed = as_packed(model, "sdpa")
    with torch.no_grad():
        before = score_batch(packed, to_tensors(segments)).logprobs_N
        after = score_batch(packed, to_tensors(changed)).logprobs_N
    owner = np.repeat(np.arange(len(segments)), [int((s.weights != 0).sum()) for s in segments])
    same = (before == after).numpy()
    assert same[~np.isin(owner, [6, 7, 8])].all()
    for tree_member in (6, 7, 8):
        assert not same[owner == tree_member].all()


@pytest.mark.parametrize("back_end", ["eager", "sdpa"])
def test_a_long_mixed_batch_equals_one_by_one(back_end):
    """Many lengths at once, so that segments share groups with padding in them."""
    model = build_model("qwen3", True)
    random = np.random.default_rng(0)
    roots = [(-1, int(n)) for n in random.integers(1, 40, 30)]
    children = [(int(random.integers(0, 30)), int(n)) for n in random.integers(1, 25, 30)]
    segments = make_segments([(p, max(n, 2)) for p, n in roots + children])
    expected = one_by_one_gradients(model, segments, nullcontext())
    found = packed_gradients(as_packed(model, back_end), segments, nullcontext())
    assert worst_difference(found, expected) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_on_long_segments_equals_one_by_one(family):
    """Lengths for each kernel of attention, and the output layer told its loss beforehand."""
    model = build_model(family, True)
    segments = make_segments([(-1, 230), (0, 200), (0, 40), (2, 210), (-1, 30), (-1, 33)])
    expected = one_by_one_gradients(model, segments, nullcontext())
    packed, batch = as_packed(model, "sdpa"), to_tensors(segments)
    objective = LanguageObjective()
    objective.measure(packed, batch, objective.weigh(batch)).loss.backward()
    assert worst_difference(gradients(packed), expected) < 1e-5


def test_the_reference_itself_equals_cross_entropy():
    """Guards the yardstick: `score_one_by_one` is checked against torch's own loss."""
    model = build_model("llama", False)
    segments = make_segments(FLAT)
    with torch.no_grad():
        logprobs, _, _, weights = score_one_by_one(model, segments)
        total = torch.zeros(())
        for ids, path_weights in paths(segments):
            losses = cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
            total += (losses * path_weights[1:]).sum()
    assert float(-(logprobs * weights).sum()) == pytest.approx(float(total), rel=1e-5)
