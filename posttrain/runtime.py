"""Seeds, devices, threads, memory, and a snapshot of the environment. torch loads on demand."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import random
import resource
import shutil
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError
from posttrain.extras import require_extra as require_extra

_REPORTED_PACKAGES = (
    "posttrain", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy"
)  # fmt: skip

# More threads must be this much faster to be worth it: they wait for each other at every step.
_WORTH_MORE_THREADS = 1.25


@dataclass(frozen=True)
class Compute:
    """What a run computes on; fixed for its whole life, so that a resumed run is the same run."""

    device: str
    """``cpu`` or ``cuda``."""
    precision: str
    """``fp32`` or ``bf16``."""
    threads: int
    """CPU threads of torch."""
    reason: str
    """How it was chosen, for people."""

    @property
    def place(self) -> str:
        """The device of this process: of several processes on a machine, each has its own."""
        return self.device if self.device == "cpu" else f"cuda:{os.environ.get('LOCAL_RANK', '0')}"

    @property
    def dtype(self) -> str:
        """Torch's name of the number format, of weights that are only read."""
        return "bfloat16" if self.precision == "bf16" else "float32"

    def apply(self) -> None:
        """Set torch's thread count, and the GPU that ``cuda`` means in this process."""
        import torch

        if self.device == "cuda":
            torch.cuda.set_device(self.place)

        # Processes side by side share the cores.
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, self.threads // beside))


def choose_compute(device: str, precision: str, threads: str | int) -> Compute:
    """Settle every ``auto`` by looking or by a measurement of about a second.

    On a CPU the thread count and number format that do a training-shaped piece of work fastest
    win: more threads than free cores, or bf16 without hardware for it, are slower by 2 to 50 times.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``.
        threads: ``auto`` or a number.

    Returns:
        The choice with its reason.

    Raises:
        ConfigError: ``cuda`` without a CUDA device.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                "compute.device: cuda, but torch finds no CUDA device here",
                hint="set compute.device=cpu, or install a torch build for your GPU",
            )
        chosen = precision if precision != "auto" else "bf16"
        count = torch.get_num_threads() if threads == "auto" else int(threads)
        return Compute("cuda", chosen, count, torch.cuda.get_device_name())
    cores = count_cores()
    # Never all of many cores: the one that another process takes would stop every thread.
    most = cores - 1 if cores > 2 else cores
    counts = [int(threads)] if threads != "auto" else sorted({1, max(1, cores // 2), most})
    formats = [precision] if precision != "auto" else ["fp32", "bf16"]
    if len(counts) * len(formats) == 1:
        return Compute("cpu", formats[0], counts[0], "as the recipe says")
    # Threads first, then the other format at the best count: bf16 without hardware is very slow.
    seconds = {(n, formats[0]): _time_training_work(n, formats[0]) for n in counts}
    count = counts[0]
    for more in counts[1:]:
        if seconds[more, formats[0]] * _WORTH_MORE_THREADS < seconds[count, formats[0]]:
            count = more
    seconds |= {(count, f): _time_training_work(count, f) for f in formats[1:]}
    best = min(((count, f) for f in formats), key=lambda choice: seconds[choice])
    parts = [f"{n} threads {f} {1000 * s:.0f} ms" for (n, f), s in seconds.items()]
    return Compute("cpu", best[1], best[0], "measured: " + ", ".join(parts))


def _time_training_work(threads: int, precision: str) -> float:
    """Seconds for a forward and backward pass of a small gated layer, the median of some.

    Not the best: threads that other processes stall now and then shall be seen to be slow.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x_TD = torch.randn(1024, 192)
        weights = [torch.randn(192, 512, requires_grad=True) for _ in range(2)]
        seconds = []
        for _ in range(21):
            start = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                hidden = torch.nn.functional.silu(x_TD @ weights[0]) * (x_TD @ weights[1])
                loss = torch.nn.functional.rms_norm(hidden, (512,)).float().square().sum()
            loss.backward()
            seconds.append(time.perf_counter() - start)
            if sum(seconds) > 0.7 and len(seconds) > 1:  # slow already; do not make the user wait
                break
        return statistics.median(seconds[1:])  # the first one warms up
    finally:
        torch.set_num_threads(before)


def count_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_seed(seed: int) -> None:
    """Seed Python, numpy and torch."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far, bytes."""
    with contextlib.suppress(OSError):  # no Linux
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # Counts what the process that started this one held: execve keeps it.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def find_package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on; absent ones are left out."""
    versions = {}
    for name in _REPORTED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe_environment(compute: Compute | None = None) -> dict[str, Any]:
    """Describe hardware and software of this process, without any secret or user name."""
    import psutil

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": count_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": find_package_versions(),
        "compute": asdict(compute) if compute else None,
    }


def command_name() -> str:
    """What to type to start this program again: its name if the shell finds it, or its path."""
    started = Path(sys.argv[0])
    if shutil.which("posttrain") or started.name != "posttrain":
        return "posttrain"
    return os.path.relpath(started)


def is_main_process() -> bool:
    """Whether this process speaks and writes for all of a distributed run."""
    return int(os.environ.get("RANK", "0")) == 0


def rank() -> int:
    """Number of this process among those that train together, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Processes of a distributed run; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_launched() -> bool:
    """Whether a launcher such as torchrun has started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ
