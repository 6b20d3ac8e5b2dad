"""Models that cannot be packed, and windows that can: both give what transformers gives for each
path of a forest, one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Cohere2Config,
    Exaone4Config,
    FalconMambaConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTJConfig,
    GptOssConfig,
    Lfm2Config,
    Llama4TextConfig,
    Mamba2Config,
    MinistralConfig,
    MistralConfig,
    Olmo3Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
    Starcoder2Config,
)

from posttrain.layout import NO_PARENT, Segment, build_batch
from posttrain.models.attention import register_attention, registered_name
from posttrain.models.heads import end_positions, prepare_reward, score_ends
from posttrain.models.packed import prepare_packed, score_batch
from posttrain.models.packing import find_packing_obstacle

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
BOTH = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
WINDOWED = {
    "mistral": MistralConfig(**SHAPE, sliding_window=5),
    "ministral": MinistralConfig(**SHAPE, **BOTH),
    "qwen2": Qwen2Config(**SHAPE, use_sliding_window=True, max_window_layers=1, sliding_window=5),
    "qwen3": Qwen3Config(**SHAPE, use_sliding_window=True, max_window_layers=1, sliding_window=5),
    "gemma3": Gemma3TextConfig(**SHAPE, **BOTH),
    "olmo3": Olmo3Config(**SHAPE, **BOTH),
    "phi3": Phi3Config(**SHAPE, sliding_window=5),
    "starcoder2": Starcoder2Config(**SHAPE, sliding_window=5),
    "exaone4": Exaone4Config(**SHAPE, **BOTH),
    "cohere2": Cohere2Config(**SHAPE, **BOTH, logit_scale=1.0),
    "gemma2": Gemma2Config(**SHAPE, **BOTH, final_logit_softcapping=None),
}
SMALL = {"vocab_size": 97, "hidden_size": 32, "bos_token_id": None, "eos_token_id": 1}
MAMBA = {"num_hidden_layers": 2, "state_size": 8, "head_dim": 8, "num_heads": 8, "n_groups": 2}
NEXT = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
LLAMA4 = {"attention_chunk_size": 6, "num_local_experts": 2, "intermediate_size_mlp": 48}
UNPACKABLE = {
    "qwen3_next": (Qwen3NextConfig(**SHAPE, **NEXT), "linear_attention"),
    "mamba2": (Mamba2Config(**SMALL, **MAMBA, chunk_size=8), "linear_attention"),
    "falcon_mamba": (FalconMambaConfig(**SMALL, num_hidden_layers=2, state_size=8), "state"),
    "lfm2": (Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"]), "conv"),
    "llama4": (
        Llama4TextConfig(**SHAPE, **LLAMA4, layer_types=["chunked_attention", "full_attention"]),
        "chunked_attention",
    ),
    "gpt_oss": (GptOssConfig(**SHAPE, **BOTH, num_local_experts=4, num_experts_per_tok=2), "sinks"),
    "bloom": (BloomConfig(**SMALL, n_layer=2, n_head=4), "code of its own"),
    "gptj": (
        GPTJConfig(vocab_size=97, n_embd=32, n_layer=2, n_head=4, rotary_dim=8, n_positions=128),
        "code of its own",
    ),
}
# A tree three generations deep with a one-token child, loners, and a preference pair.
FOREST = [(-1, 9), (0, 5), (0, 7), (1, 4), (1, 1), (-1, 2), (-1, 13), (6, 3), (6, 6), (-1, 8)]
PAIRS = [(-1, 9), (0, 5), (0, 7), (-1, 4), (3, 3), (3, 11)]


def build_model(config: Any) -> Any:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=None)
    with torch.no_grad():  # away from the initial weights, where attention is close to uniform
        for name, parameter in model.named_parameters():
            if "A_log" not in name:  # a state that grows would overflow
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def build_packed(config: Any, back_end: str) -> Any:
    register_attention()
    model = build_model(config)
    model.set_attn_implementation(registered_name(back_end))
    prepare_packed(model)
    return model


def make_segments(forest: list[tuple[int, int]], *, loss: bool = True) -> list[Segment]:
    """Random tokens; a third of them without loss, the others with uneven weights."""
    random = np.random.default_rng(7)
    segments = []
    for parent, length in forest:
        weights = random.choice([0.0, 0.5, 1.0], size=length) if loss else np.zeros(length)
        if parent == NO_PARENT:
            weights[0] = 0.0
        segments.append(Segment(random.integers(2, 97, length), weights, parent))
    return segments


def to_batch(segments: list[Segment]) -> dict[str, Any]:
    packed = build_batch(segments).items()
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in packed}


def path_of(segments: list[Segment], number: int) -> Tensor:
    """Token ids of a segment with all above it."""
    ids = list(segments[number].token_ids)
    while (number := segments[number].parent) != NO_PARENT:
        ids = [*segments[number].token_ids, *ids]
    return torch.tensor(ids)


def score_one_by_one(model: Any, segments: list[Segment]) -> Tensor:
    """Log-probability of every scored token, path by path."""
    parts = []
    for number, segment in enumerate(segments):
        path = path_of(segments, number)
        logp = model(path[None], use_cache=False).logits[0].float().log_softmax(-1)
        places = np.flatnonzero(segment.weights) + len(path) - len(segment.token_ids)
        parts.append(logp[places - 1, path[places]])
    return torch.cat(parts)


def gradients_of(model: Any, logprobs: Tensor, weights: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (-(logprobs * weights).sum() / weights.sum()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def compare_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    size = torch.stack([g.norm() for g in expected.values()]).norm()
    for name, gradient in found.items():
        # Of weights that hardly count, such as a bias of keys, rounding is all there is.
        assert (gradient - expected[name]).norm() <= 2e-5 * expected[name].norm() + 1e-6 * size


def check_equal(config: Any, packed: Any, forest: list[tuple[int, int]]) -> None:
    segments = make_segments(forest)
    batch = to_batch(segments)
    plain = build_model(config)
    expected = score_one_by_one(plain, segments)
    found = score_batch(packed, batch).logprobs_N
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = batch["score_weights"]
    compare_gradients(gradients_of(packed, found, weights), gradients_of(plain, expected, weights))


@pytest.mark.parametrize("back_end", ["eager", "sdpa"])
@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_packed_and_equal_transformers_one_by_one(name, back_end):
    config = WINDOWED[name]
    assert find_packing_obstacle(config) is None
    check_equal(config, build_packed(config, back_end), FOREST)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_flex_keeps_windows_and_bends_scores(name):
    segments = make_segments(FOREST)
    with torch.no_grad():
        packed = build_packed(WINDOWED[name], "flex")
        found = score_batch(packed, to_batch(segments)).logprobs_N
        expected = score_one_by_one(build_model(WINDOWED[name]), segments)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("forest", [FOREST, PAIRS], ids=["forest", "pairs"])
@pytest.mark.parametrize("name", UNPACKABLE)
def test_what_cannot_be_packed_runs_in_rows_that_equal_transformers_one_by_one(name, forest):
    config, reason = UNPACKABLE[name]
    assert reason in str(find_packing_obstacle(config))
    model = build_model(config)
    prepare_packed(model)
    check_equal(config, model, forest)


def test_rewards_of_rows_equal_transformers_one_by_one():
    from transformers import AutoModelForSequenceClassification

    config = Qwen3NextConfig(**SHAPE, **NEXT, num_labels=1)
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    segments = make_segments(PAIRS, loss=False)
    batch = to_batch(segments)
    ends = end_positions(batch["segments"])
    with torch.no_grad():
        answers = [i for i, segment in enumerate(segments) if segment.parent != NO_PARENT]
        expected = [float(model(path_of(segments, i)[None]).logits) for i in answers]
        prepare_reward(model)
        found = score_ends(model, {**batch, "end_positions": torch.from_numpy(ends)})
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_batch_without_loss_gives_gradients_of_zero():
    model = build_model(UNPACKABLE["bloom"][0])
    prepare_packed(model)
    scores = score_batch(model, to_batch(make_segments(PAIRS, loss=False)))
    assert len(scores.logprobs_N) == 0
    scores.logprobs_N.sum().backward()
    norms = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
    assert norms
    assert not any(norms)
