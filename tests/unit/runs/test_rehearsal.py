"""A step on shapes alone holds what the real one holds."""

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import Qwen3Config

from posttrain.config.load import build_recipe
from posttrain.layout import Segment, build_batch
from posttrain.models.attention import register_attention
from posttrain.models.load import load_base_config, load_model
from posttrain.models.packed import prepare_packed
from posttrain.runs.rehearsal import build_round, rehearse_step
from posttrain.training.batches import to_tensors
from posttrain.training.objective import LanguageObjective


def build(kind="sft", *, recipe=None, **stage):
    values = {
        "name": "test",
        "model": {"path": "tiny"},
        "compute": {"precision": "fp32", "device": "cpu"},
        "stages": [{"stage": kind, "data": {"sources": [{"path": "rows.jsonl"}]}, **stage}],
        **(recipe or {}),
    }
    built = build_recipe(values, [], "test")
    return built, built.stages[0]


def rows(*lengths):
    segments = []
    for length in lengths:
        weights = np.ones(length)
        weights[: length // 2] = 0
        segments.append(Segment(np.arange(length) % 50, weights))
    return build_batch(segments)


def count(kind="sft", *, recipe=None, packed=None, again=False, config=None, **stage):
    built, stage = build(kind, recipe=recipe, **stage)
    own = load_base_config(built.model)  # which makes the built-in model where it is not yet
    return rehearse_step(built, stage, config or own, packed or rows(300, 200, 77), again=again)


def alive(step):
    """Without the holes between."""
    return step.total() - step["allocator"]


def test_what_autograd_keeps_is_what_the_real_step_keeps():
    """The fullest moment is where the head works; before it only what is kept is alive."""
    register_attention()
    built, _ = build()
    model = load_model(
        built.model, attention="posttrain_sdpa", dtype="float32", prepare=prepare_packed
    ).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and model.config.vocab_size not in tensor.shape:
            kept[storage.data_ptr()] = (storage, storage.nbytes())
        return tensor

    batch = to_tensors(rows(300, 200, 77))
    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = LanguageObjective().measure(model, batch, torch.ones(())).loss
    real = sum(size for _, size in kept.values())
    loss.backward()
    found = count()
    assert real < found["activations"] + found["gradients"] < 1.35 * real


def test_checkpointing_adapters_and_shorter_batches_hold_less():
    whole = alive(count())
    assert alive(count(activation_checkpointing=True)) < 0.7 * whole
    assert alive(count(packed=rows(100))) < 0.5 * whole
    lora = {"tuning": "lora", "lora": {"rank": 4}}
    assert count(recipe=lora, again=True)["gradients"] < 0.1 * count(again=True)["gradients"]


def test_gradients_of_an_earlier_batch_are_there_whole():
    config = load_base_config(build()[0].model)
    held = 4 * 1_955_328
    again = count(again=True)["gradients"]
    assert again >= held > count()["gradients"]
    # One at a time is added to them; the largest is that of the embedding.
    assert again < 1.5 * held
    assert config.vocab_size


def test_a_deep_model_is_reckoned_from_a_part_of_its_layers():
    sizes = {
        layers: count(
            config=Qwen3Config(
                vocab_size=200,
                hidden_size=32,
                intermediate_size=96,
                num_hidden_layers=layers,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
            )
        )["activations"]
        for layers in (7, 8, 16)
    }
    assert sizes[16] == pytest.approx(sizes[8] + 8 * (sizes[8] - sizes[7]), rel=0.02)


def test_quantized_weights_are_unpacked_for_their_product_only():
    lora, qlora = ({"tuning": name, "lora": {"rank": 4}} for name in ("lora", "qlora"))
    less, more = (alive(count(recipe=recipe)) for recipe in (lora, qlora))
    largest = 4 * max(192 * 512, 192 * 192)
    assert less <= more <= less + 3 * largest


def test_a_round_fills_its_batch_with_full_groups():
    _, stage = build("grpo", completions=4, max_new_tokens=10, batch_tokens=120)
    packed = build_round(20, stage)
    assert packed["segments"].tree_tokens() == [60, 60]
    one = stage.model_copy(update={"prompts_per_rollout": 1})
    assert build_round(20, one)["segments"].tree_tokens() == [60]
    assert count("grpo", packed=packed).total() > 0
    assert count("ppo", packed=packed).total() > 0
