"""Peaks from the table or measured, and the load of this process."""

import time

import pytest
import torch

from posttrain.devices import find_peak, look_up_peak, read_load
from posttrain.runtime import Compute


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA GH200 480GB", 990),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA RTX A6000", 154.8),
        ("AMD Instinct MI300X", 1307),
    ],
)
def test_peaks_of_gpus_by_the_names_that_drivers_give(name, tera):
    assert look_up_peak(name) == tera * 1e12


def test_an_unknown_gpu_has_no_peak_rather_than_a_wrong_one():
    assert look_up_peak("Voodoo 2") is None


def test_a_cpu_is_measured_near_what_a_product_reaches():
    peak = find_peak(Compute("cpu", "fp32", 1, "test"))
    left = torch.ones(1024, 1024)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - start)
    assert 0.3 < peak.flops / (2 * 1024**3 / best) < 3
    assert peak.source == "measured: products of matrices in fp32"


def test_measuring_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    find_peak(Compute("cpu", "fp32", 1, "test"))
    assert torch.equal(before, torch.get_rng_state())


def test_memory_grows_with_what_is_held():
    before = read_load()
    assert set(before) == {"memory_bytes"}
    held = torch.ones(64 * 2**20)  # 256 MiB
    after = read_load()["memory_bytes"]
    assert after >= before["memory_bytes"]
    assert after >= held.nbytes
