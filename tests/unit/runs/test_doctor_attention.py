import re

import pytest
import torch
from transformers import AttentionInterface

from posttrain.models.attention import BACK_ENDS, register_attention
from posttrain.models.attention.problems import PROBLEMS
from posttrain.runs import doctor_attention
from posttrain.runs.doctor_attention import examine_attention


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Three problems, in the number format that every CPU computes fast."""
    monkeypatch.setattr(doctor_attention, "PROBLEMS", PROBLEMS[:3])
    monkeypatch.setattr(doctor_attention, "_DTYPES", {"cpu": ("float32",), "cuda": ("float32",)})
    monkeypatch.setattr(doctor_attention, "_MOST_RUNS", 1)


def test_every_back_end_is_measured_or_says_what_it_needs():
    text, right = examine_attention()
    assert right
    for name in BACK_ENDS:
        assert re.search(rf"^{name} +(available|not available: \w)", text, flags=re.MULTILINE)
    rows = re.findall(
        r"^(tree|flat batch|grouped heads) +float32 +(\w+) +(\S+) +(\S+) +(\S+) +(\S+) +([\d.]+)x$",
        text,
        flags=re.MULTILINE,
    )
    assert {(row[0], row[1]) for row in rows} >= {
        (problem, name)
        for problem in ("tree", "flat batch", "grouped heads")
        for name in ("sdpa", "eager")
    }
    for _, _, output, gradient, forward, backward, slower in rows:
        assert float(output) < 1e-4
        assert float(gradient) < 1e-4
        assert float(forward) > 0 < float(backward)
        assert float(slower) >= 1
    assert re.search(r"^auto +fp32: ", text, flags=re.MULTILINE)


def test_a_back_end_that_computes_wrong_results_is_a_problem(monkeypatch):
    register_attention()
    real = AttentionInterface()["posttrain_groups"]

    def double(*args, **kwargs):
        return 2 * real(*args, **kwargs)[0], None

    monkeypatch.setattr(doctor_attention, "register_attention", lambda: None)
    AttentionInterface.register("posttrain_groups", double)
    try:
        text, right = examine_attention()
    finally:
        register_attention()
    assert not right
    assert "problem: attention back end sdpa, tree, float32: computes wrong results" in text
    assert len(re.findall(r"WRONG$", text, flags=re.MULTILINE)) == 3


def test_a_kernel_that_fails_leaves_the_others_measured(monkeypatch):
    register_attention()

    def fail(*args, **kwargs):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(doctor_attention, "register_attention", lambda: None)
    AttentionInterface.register("posttrain_groups", fail)
    try:
        text, right = examine_attention()
    finally:
        register_attention()
    assert not right
    assert "sdpa, tree, float32: does not run (no kernel image is available)" in text
    assert re.search(r"^tree +float32 +eager +0\.0e\+00", text, flags=re.MULTILINE)


def test_not_a_number_is_wrong():
    row = doctor_attention.Measurement("sdpa", "tree", "float32", output_error=float("nan"))
    assert row.wrong
    assert not torch.isnan(torch.tensor(row.gradient_error))
