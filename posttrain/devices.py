"""What a device can do at most, and how busy it is. torch loads on demand."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from posttrain.runtime import Compute, peak_memory_bytes

# Dense bf16 products with fp32 sums, 10^12 operations per second, from NVIDIA's and AMD's data
# sheets; these often give the figure with structured sparsity, which is twice as high. Every word
# of a name must be in the device's; the first match counts.
_PEAKS: tuple[tuple[str, float], ...] = (
    ("gb200", 2500), ("b200", 2250), ("b100", 1750),
    ("gh200", 990), ("h200 nvl", 836), ("h200", 989), ("h20", 148),
    ("h100 nvl", 835), ("h100 pcie", 756), ("h100", 989), ("h800 pcie", 756), ("h800", 989),
    ("a100", 312), ("a800", 312), ("a40", 149.7), ("a30", 165), ("a10g", 70), ("a10", 125),
    ("l40s", 362), ("l40", 181), ("l4", 121),
    ("rtx 6000 ada", 364), ("rtx a6000", 154.8),
    ("rtx 5090", 209.5), ("rtx 4090", 165.2), ("rtx 4080", 97.5), ("rtx 3090", 71),
    ("mi355x", 2500), ("mi325x", 1307), ("mi300x", 1307), ("mi250x", 383),
)  # fmt: skip


@dataclass(frozen=True)
class Peak:
    """The most that a device can compute."""

    flops: float
    """Operations per second."""
    source: str
    """Where the figure comes from, for people."""


def find_peak(compute: Compute) -> Peak:
    """Look up what a GPU can do, or measure it with products of matrices for a moment.

    Args:
        compute: Device and number format of the run.

    Returns:
        Of one device; of a CPU, of the threads that torch uses in this process.
    """
    import torch

    if compute.device == "cuda" and compute.precision == "bf16":
        name = torch.cuda.get_device_name(compute.place)
        if (known := look_up_peak(name)) is not None:
            return Peak(known, f"data sheet of {name}, dense bf16")
    return Peak(_measure_peak(compute), f"measured: products of matrices in {compute.precision}")


def look_up_peak(name: str) -> float | None:
    """Operations per second of a GPU in dense bf16, by its driver's name; None of unknown ones."""
    for words, tera in _PEAKS:
        if all(word in name.lower() for word in words.split()):
            return tera * 1e12
    return None


def _measure_peak(compute: Compute) -> float:
    """Operations per second of the fastest of some products of square matrices."""
    import torch

    dtype = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    best = 0.0
    for size in (512, 1024, 2048, 4096):  # larger ones only where they take no time
        # No random numbers: a measurement must not move the run's own.
        square = torch.full((size, size), 0.5, dtype=dtype, device=compute.place)
        spent = [_time_product(square, square) for _ in range(5)]
        best = max(best, 2 * size**3 / min(spent))
        if sum(spent) > 0.1:
            break
    return best


def _time_product(left: Any, right: Any) -> float:
    import torch

    start = time.perf_counter()
    left @ right
    if left.is_cuda:
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - start


def read_load() -> dict[str, float]:
    """Memory of this process, and the load of its GPU where there is one.

    Returns:
        ``memory_bytes``, the most so far: on a GPU of its tensors, else resident. On a GPU also
        ``gpu_allocated_bytes`` and ``gpu_reserved_bytes`` (now), ``gpu_utilization`` (share of the
        last moments in which it computed), ``gpu_power_watts`` and ``gpu_temperature_celsius``,
        as far as its driver tells.
    """
    import torch

    if not torch.cuda.is_initialized():
        return {"memory_bytes": float(peak_memory_bytes())}
    values = {
        "memory_bytes": float(torch.cuda.max_memory_allocated()),
        "gpu_allocated_bytes": float(torch.cuda.memory_allocated()),
        "gpu_reserved_bytes": float(torch.cuda.memory_reserved()),
    }
    # A virtual GPU, or a part of one, tells some of these or none; NVML's errors have many types.
    with contextlib.suppress(Exception):
        values["gpu_utilization"] = torch.cuda.utilization() / 100
    with contextlib.suppress(Exception):
        values["gpu_power_watts"] = torch.cuda.power_draw() / 1000
    with contextlib.suppress(Exception):
        values["gpu_temperature_celsius"] = float(torch.cuda.temperature())
    return values
