"""Examine the machine: what is installed, what works when it is run, how to mend the rest."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.files import cache_root
from posttrain.logs import format_bytes
from posttrain.runtime import choose_compute, count_cores, describe_environment

_LOW_DISK_BYTES = 5 * 2**30
# Largest difference from the reference that counts as working, fp32.
_TOLERANCE = 1e-4


def examine_machine() -> tuple[str, bool]:
    """Examine everything a run needs.

    Returns:
        Text for the terminal, and whether nothing essential is missing.
    """
    problems: list[str] = []
    lines = [*_describe_software(), *_describe_devices(), *_describe_attention(problems)]
    lines += _describe_disk(problems)
    lines += _describe_optional()
    lines += [f"problem: {problem}" for problem in problems] or ["all that is needed works"]
    return "\n".join(lines), not problems


def _describe_software() -> Iterator[str]:
    environment = describe_environment()
    yield f"python     {sys.version.split()[0]} ({sys.executable})"
    for name, version in environment["packages"].items():
        yield f"{name:<10} {version}"


def _describe_devices() -> Iterator[str]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    yield (
        f"cpu        {count_cores()} cores, {format_bytes(memory.total)} memory, "
        f"{format_bytes(memory.available)} free"
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"cuda:{index}     {properties.name}, {format_bytes(properties.total_memory)}"
    else:
        yield "cuda       none; training runs on the CPU"
    compute = choose_compute("auto", "auto", "auto")
    yield (
        f"auto       {compute.device} {compute.precision}, {compute.threads} threads "
        f"({compute.reason})"
    )


def _describe_attention(problems: list[str]) -> Iterator[str]:
    """Run each back end forward and backward on a small forest of segments."""
    import torch

    from posttrain.models.attention import BACK_ENDS, register_attention

    register_attention()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reference = _attend("eager", device)
    for name in sorted(BACK_ENDS, key=lambda n: n != "eager"):
        started = time.perf_counter()
        try:
            results = _attend(name, device)
        except Exception as error:  # any failure of a back end is what we came to see
            reason = str(error).strip().splitlines()[0][:90]
            yield f"attention  {name}: does not work on {device}: {reason}"
            if name != "flex":
                problems.append(f"attention back end {name} fails; reinstall torch")
            continue
        seconds = time.perf_counter() - started
        error_size = max(
            float((a - b).abs().max()) for a, b in zip(results, reference, strict=True)
        )
        works = error_size < _TOLERANCE
        verdict = "works" if works else "WRONG"
        yield (
            f"attention  {name}: {verdict} on {device}, largest difference from the reference "
            f"{error_size:.1e}, {1000 * seconds:.0f} ms"
        )
        if not works:
            problems.append(f"attention back end {name} computes wrong results here")


def _attend(name: str, device: str) -> list[Any]:
    """Output and gradients of one back end on a fixed small problem."""
    import torch
    from transformers import AttentionInterface

    from posttrain.layout import SegmentTable

    table = SegmentTable((0, 40, 72, 80), (40, 32, 8, 48), (-1, 0, 0, -1))
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 128, 16, generator=generator).to(device).requires_grad_()
    key, value = (
        torch.randn(1, 2, 128, 16, generator=generator).to(device).requires_grad_()
        for _ in range(2)
    )
    attend = AttentionInterface()[f"posttrain_{name}"]
    output, _ = attend(torch.nn.Module(), query, key, value, None, segments=table)
    output.square().sum().backward()
    return [output.detach(), query.grad, key.grad, value.grad]


def _describe_disk(problems: list[str]) -> Iterator[str]:
    places = {"runs": Path(os.environ.get("POSTTRAIN_RUNS") or "runs"), "cache": cache_root()}
    for name, path in places.items():
        existing = next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        yield f"{name:<10} {path}: {format_bytes(free)} free"
        if not os.access(existing, os.W_OK):
            problems.append(f"{existing} cannot be written; set POSTTRAIN_{name.upper()}")
        elif free < _LOW_DISK_BYTES:
            problems.append(f"less than {format_bytes(_LOW_DISK_BYTES)} free for {path}")


_OPTIONAL = {"tensorboard": "curves of a run: tensorboard --logdir runs"}


def _describe_optional() -> Iterator[str]:
    for module, use in _OPTIONAL.items():
        found = importlib.util.find_spec(module) is not None
        yield f"optional   {module}: {'installed' if found else f'pip install {module}'} ({use})"
