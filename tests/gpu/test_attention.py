"""Every attention back end that this GPU has: exact, trains, and is measured by the doctor."""

import json

import pytest

from posttrain.models.attention.problems import GPU_PROBLEMS, PROBLEMS

pytestmark = pytest.mark.gpu

BACK_ENDS = ("flash_attention_3", "flash_attention_2", "flex", "sdpa")
DTYPES = ("float32", "float16", "bfloat16")


def skip_without(back_end, dtype, head_size=64):
    """Skip with what the back end lacks here."""
    from posttrain.models.attention import register_attention
    from posttrain.models.attention.choose import Needs, find_lack

    register_attention()
    if lack := find_lack(back_end, Needs("cuda", dtype, head_size)):
        pytest.skip(f"{back_end} {lack.reason}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("problem", [*PROBLEMS, *GPU_PROBLEMS], ids=lambda problem: problem.name)
def test_back_end_equals_the_fp32_reference(problem, back_end, dtype):
    import torch

    from posttrain.models.attention.probe import TOLERANCE
    from posttrain.models.attention.problems import relative_errors, solve

    skip_without(back_end, dtype, problem.head_size)
    found = solve(back_end, problem, device="cuda", dtype=getattr(torch, dtype))
    expected = solve("eager", problem, device="cuda", dtype=torch.float32)
    assert max(relative_errors(found, expected)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("back_end", ["flash_attention_3", "flash_attention_2"])
def test_the_causal_mask_of_a_kernel_stands_at_the_bottom_right(back_end):
    """One query behind four keys sees them all; at the top left it would see the first."""
    import torch

    from posttrain.layout import SegmentTable
    from posttrain.models.attention.problems import attend

    skip_without(back_end, "bfloat16")
    table = SegmentTable((0, 4), (4, 1), (-1, 0))
    query, key = (torch.zeros(1, 1, 5, 64, device="cuda").bfloat16() for _ in range(2))
    value = torch.arange(5.0, device="cuda").bfloat16().view(1, 1, 5, 1).expand(-1, -1, -1, 64)
    output = attend(back_end, table, (query, key, value.contiguous()))
    assert output[0, :, 0, 0].tolist() == pytest.approx([0, 0.5, 1, 1.5, 2], abs=0.02)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_a_tiny_model_trains_a_step_on_every_back_end(back_end, tmp_path):
    from posttrain.config.load import build_recipe
    from posttrain.files import load_json
    from posttrain.runs.run import run_recipe
    from posttrain.samples.math import generate_math

    skip_without(back_end, "bfloat16", 32)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in generate_math(60, 0)))
    data = {"sources": [{"path": rows}]}
    stages = [{"stage": "sft", "data": data, "steps": 1, "batch_tokens": 2048}]
    model = {"path": "tiny", "attention": back_end}
    values = {"name": "gpu", "output": tmp_path / "runs", "model": model, "stages": stages}
    wanted = ["compute.device=cuda", "compute.precision=bf16"]
    folder = run_recipe(build_recipe(values, wanted, "test"), "")
    assert load_json(folder / "sft" / "stage.json")["summary"]["loss_first"] > 0
    lineage = load_json(folder / "sft" / "lineage.json")
    assert lineage["attention"].startswith(f"packed, {back_end} (as the recipe says")


def test_auto_on_a_gpu_names_what_it_took_and_what_it_passed_over():
    from posttrain.models.attention import BACK_ENDS as ALL
    from posttrain.models.attention import register_attention
    from posttrain.models.attention.choose import Needs, settle_packed

    register_attention()
    settled = settle_packed("auto", Needs("cuda", "bfloat16"))
    better = ALL[: ALL.index(settled.back_end)]
    assert all(f"{name} " in settled.reason for name in better)


def test_the_doctor_finds_every_back_end_right():
    from posttrain.runs.doctor_attention import examine_attention

    text, right = examine_attention()
    assert right, text
