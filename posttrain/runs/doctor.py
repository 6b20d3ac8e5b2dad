"""Examine the machine: what is installed, what works when it is run, how to mend the rest."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from posttrain.files import cache_root
from posttrain.logs import format_bytes
from posttrain.runtime import choose_compute, count_cores, describe_environment

_LOW_DISK_BYTES = 5 * 2**30


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
    """Try each back end once on a small tree."""
    import torch

    from posttrain.models.attention import BACK_ENDS, register_attention
    from posttrain.models.attention.choose import Needs, find_obstacle, settle_packed
    from posttrain.models.attention.probe import find_error

    register_attention()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    needs = Needs(device, "bfloat16" if device == "cuda" else "float32")
    for name in BACK_ENDS:
        if obstacle := find_obstacle(name, needs):
            command = f" ({obstacle.hint})" if obstacle.missing else ""
            yield f"attention  {name}: {obstacle.reason}{command}"
        elif error := find_error(name, device, needs.dtype, needs.head_size):
            yield f"attention  {name}: {error}"
            problems.append(f"attention back end {name} {error}; reinstall torch")
        else:
            yield f"attention  {name}: works on {device}"
    yield f"attention  auto takes {settle_packed('auto', needs).back_end}"


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


def _describe_optional() -> Iterator[str]:
    """Each extra of the package, and what of it is installed."""
    from packaging.requirements import Requirement

    try:
        about = importlib.metadata.metadata("posttrain")
    except importlib.metadata.PackageNotFoundError:
        yield "optional   unknown: posttrain runs from its source, without being installed"
        return
    needed = [Requirement(line) for line in about.get_all("Requires-Dist") or ()]
    for extra in about.get_all("Provides-Extra") or ():
        found: list[str] = []
        missing: list[str] = []
        for package in needed:
            if package.marker is None or not package.marker.evaluate({"extra": extra}):
                continue
            version = _find_version(package.name)
            fits = version is not None and package.specifier.contains(version, prereleases=True)
            wanted = f"{package.name}{package.specifier}"
            (found if fits else missing).append(f"{package.name} {version}" if fits else wanted)
        if missing:
            yield (
                f"optional   {extra}: pip install 'posttrain[{extra}]' "
                f"(missing: {', '.join(missing)})"
            )
        else:
            yield f"optional   {extra}: installed ({', '.join(found)})"


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
