"""What only a GPU can show; skipped elsewhere, required by `make gpu`."""

import json

import pytest

pytestmark = pytest.mark.gpu


def random_batch(device):
    import numpy as np
    import torch

    from posttrain.layout import Segment, build_batch

    generator = np.random.default_rng(0)
    lengths, parents = (300, 70, 41, 180, 9), (-1, 0, 0, -1, 2)
    segments = []
    for length, parent in zip(lengths, parents, strict=True):
        weights = np.ones(length)
        weights[0] = 0 if parent < 0 else 1
        segments.append(Segment(generator.integers(5, 400, length), weights, parent))
    batch = build_batch(segments)
    return {
        name: torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value
        for name, value in batch.items()
    }


def scores_and_gradients(back_end):
    from posttrain.config.model import ModelConfig
    from posttrain.models.attention import register_attention
    from posttrain.models.load import load_model
    from posttrain.models.packed import prepare_packed, score_batch

    register_attention()
    config = ModelConfig(path="tiny")
    name = f"posttrain_{back_end}"
    model = load_model(config, attention=name, dtype="float32", prepare=prepare_packed)
    model.to("cuda")
    scores = score_batch(model, random_batch("cuda"))
    scores.logprobs_N.sum().backward()
    return scores.logprobs_N.detach(), [p.grad for p in model.parameters()]


@pytest.mark.parametrize("back_end", ["sdpa", "flex"])
def test_back_end_equals_the_dense_reference_on_cuda(back_end):
    expected, expected_gradients = scores_and_gradients("eager")
    found, gradients = scores_and_gradients(back_end)
    assert (found - expected).abs().max() < 1e-3
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert (gradient - reference).norm() <= 1e-3 * reference.norm()


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_bf16_training_on_cuda_learns(tuning, tmp_path, monkeypatch):
    from posttrain.config.load import build_recipe
    from posttrain.files import load_json
    from posttrain.runs.run import run_recipe
    from posttrain.samples.math import generate_math

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in generate_math(500, 0)))
    stage = {
        "stage": "sft",
        "data": {"sources": [{"path": rows}]},
        "steps": 30,
        "batch_tokens": 2048,
        "learning_rate": 3e-3,
    }
    values = {
        "name": "gpu",
        "output": tmp_path / "runs",
        "model": {"path": "tiny"},
        "tuning": tuning,
        "stages": [stage],
    }
    folder = run_recipe(build_recipe(values, ["compute.device=cuda"], "test"), "")
    summary = load_json(folder / "sft" / "stage.json")["summary"]
    assert summary["loss_last"] < summary["loss_first"]


def test_a_gpu_tells_its_memory_load_power_and_temperature():
    import torch

    from posttrain.devices import find_peak, read_load
    from posttrain.runtime import Compute

    held = torch.ones(2**26, device="cuda")
    load = read_load()
    assert load["memory_bytes"] >= load["gpu_allocated_bytes"] >= held.nbytes
    assert load["gpu_reserved_bytes"] >= load["gpu_allocated_bytes"]
    assert 0 <= load["gpu_utilization"] <= 1
    assert 5 < load["gpu_power_watts"] < 2_000
    assert 10 < load["gpu_temperature_celsius"] < 120
    bf16, fp32 = (find_peak(Compute("cuda", p, 1, "test")) for p in ("bf16", "fp32"))
    assert bf16.flops > fp32.flops > 1e12
