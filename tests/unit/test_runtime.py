import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from posttrain.runtime import (
    Compute,
    choose_compute,
    count_cores,
    describe_environment,
    find_package_versions,
    is_main_process,
    peak_memory_bytes,
    set_seed,
)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_the_recipe_says_is_not_measured(threads):
    found = choose_compute("cpu", "bf16", 3)
    assert found == Compute("cpu", "bf16", 3, "as the recipe says")


def test_auto_is_measured_told_and_leaves_the_threads_alone(threads):
    torch.set_num_threads(1)
    found = choose_compute("cpu", "fp32", "auto")
    assert found.threads in {1, max(1, count_cores() // 2), count_cores()}
    assert found.reason.startswith("measured: 1 thr")
    assert torch.get_num_threads() == 1


def test_precision_auto_on_a_cpu_chooses_between_two(threads):
    found = choose_compute("cpu", "auto", 1)
    assert found.precision in {"fp32", "bf16"}
    assert " fp32 " in found.reason
    assert " bf16 " in found.reason


def test_apply_sets_the_threads(threads):
    Compute("cpu", "fp32", 2, "").apply()
    assert torch.get_num_threads() == 2


def test_a_seed_settles_python_numpy_and_torch():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    set_seed(3)
    first = draw()
    set_seed(4)
    other = draw()
    set_seed(3)
    assert draw() == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_a_seed_above_32_bits_is_taken():
    set_seed(2**40 + 1)


def test_the_environment_names_packages_and_no_user(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = describe_environment(Compute("cpu", "fp32", 1, "why"))
    assert found["packages"] == find_package_versions()
    assert torch.__version__.startswith(found["packages"]["torch"].partition("+")[0])
    assert found["compute"]["reason"] == "why"
    assert found["memory_bytes"] > 2**28
    assert "hf_secret" not in str(found)
    assert describe_environment()["compute"] is None


def test_peak_memory_covers_what_was_just_held():
    block = np.ones(2**23)  # 64 MiB
    assert peak_memory_bytes() > block.nbytes + 2**25
    assert peak_memory_bytes() < 2**40


def test_peak_memory_is_not_that_of_the_process_that_started_this_one():
    block = np.ones(2**27)  # 1 GiB
    code = "from posttrain.runtime import peak_memory_bytes; print(peak_memory_bytes())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) < block.nbytes / 2


@pytest.mark.parametrize(("rank", "expected"), [(None, True), ("0", True), ("3", False)])
def test_rank_0_speaks_for_all(monkeypatch, rank, expected):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_main_process() is expected


def test_cores_are_those_this_process_may_use():
    assert count_cores() == len(os.sched_getaffinity(0))
