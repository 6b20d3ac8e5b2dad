"""Measure every attention back end: which there are, how exact they are, how fast."""

from __future__ import annotations

import importlib.metadata
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from posttrain.models.attention import BACK_ENDS, register_attention
from posttrain.models.attention.choose import Needs, find_lack, settle_packed
from posttrain.models.attention.flash import find_kernel
from posttrain.models.attention.probe import TOLERANCE, first_line
from posttrain.models.attention.problems import (
    GPU_PROBLEMS,
    PROBLEMS,
    Problem,
    attend,
    draw,
    relative_errors,
    solve,
)

_DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16", "bfloat16")}
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# Long enough for a median, short enough to wait for.
_MOST_RUNS, _MOST_SECONDS = 10, 0.2


@dataclass(frozen=True)
class Measurement:
    """One back end on one problem in one number format."""

    back_end: str
    problem: str
    dtype: str
    output_error: float = 0.0
    """Relative to the fp32 reference."""
    gradient_error: float = 0.0
    """The largest of queries, keys and values."""
    forward_ms: float = 0.0
    backward_ms: float = 0.0
    failure: str | None = None
    """Why there are no figures."""

    @property
    def wrong(self) -> bool:
        """Whether the error is more than the number format's own, or not a number at all."""
        worst = max(self.output_error, self.gradient_error)
        return self.failure is None and not worst <= TOLERANCE[self.dtype]


def examine_attention() -> tuple[str, bool]:
    """Measure every back end that is available on every kind of problem.

    Returns:
        Text for the terminal, and whether all that is available computes right.
    """
    register_attention()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    problems = (*PROBLEMS, *(GPU_PROBLEMS if device == "cuda" else ()))
    lines = [*_describe_place(device), "", *_describe_back_ends(device), ""]
    measured: list[Measurement] = []
    for problem in problems:
        for dtype in _DTYPES[device]:
            needs = Needs(device, dtype, problem.head_size)
            able = [name for name in BACK_ENDS if find_lack(name, needs) is None]
            measured += _measure_all(able, problem, dtype, device)
    lines += _tabulate(measured)
    lines += ["", *(f"auto       {line}" for line in _describe_auto(device))]
    faults = [*_find_faults(measured)]
    lines += [f"problem: {fault}" for fault in faults] or ["every back end that runs is right"]
    return "\n".join(lines), not faults


def _describe_place(device: str) -> Iterator[str]:
    yield f"torch      {torch.__version__}, CUDA {torch.version.cuda or 'none'}"
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        yield f"device     {torch.cuda.get_device_name()}, compute capability {major}.{minor}"
    else:
        yield f"device     cpu, {torch.get_num_threads()} threads"
    for package in ("flash-attn", "flash-attn-3"):
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        yield f"package    {package}: {found}"
    for generation in (2, 3):
        kernel = find_kernel(generation)
        yield f"kernel     FlashAttention {generation}: {kernel.origin if kernel else 'none'}"


def _describe_back_ends(device: str) -> Iterator[str]:
    for name in BACK_ENDS:
        # What no number format changes comes first; a GPU's kernels want 16 bits.
        dtype = "bfloat16" if device == "cuda" else "float32"
        if lack := find_lack(name, Needs(device, dtype)):
            hint = f"; {lack.hint}" if lack.missing else ""
            yield f"{name:<18} not available: {lack.reason}{hint}"
        else:
            yield f"{name:<18} available"


def _measure_all(
    names: Sequence[str], problem: Problem, dtype: str, device: str
) -> Iterator[Measurement]:
    expected = solve("eager", problem, device=device, dtype=torch.float32)
    for name in names:
        try:
            found = solve(name, problem, device=device, dtype=getattr(torch, dtype))
            output_error, gradient_error = relative_errors(found, expected)
            forward_ms, backward_ms = _time(name, problem, dtype, device)
        except Exception as error:  # any failure of a back end is what we came to see
            yield Measurement(name, problem.name, dtype, failure=first_line(error))
            continue
        yield Measurement(
            name, problem.name, dtype, output_error, gradient_error, forward_ms, backward_ms
        )


def _time(name: str, problem: Problem, dtype: str, device: str) -> tuple[float, float]:
    """Median milliseconds of a forward and of a backward pass, warmed up."""
    inputs, weight = draw(problem, device=device, dtype=getattr(torch, dtype))
    table = problem.table()
    seconds: list[tuple[float, float]] = []
    for _ in range(_MOST_RUNS + 1):
        started = _now(device)
        output = attend(name, table, inputs, problem.window)
        between = _now(device)
        torch.autograd.grad((output.float() * weight).sum(), inputs)
        seconds.append((between - started, _now(device) - between))
        if sum(map(sum, seconds)) > _MOST_SECONDS and len(seconds) > 1:
            break
    forward, backward = zip(*seconds[1:], strict=True)
    return 1000 * statistics.median(forward), 1000 * statistics.median(backward)


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


_COLUMNS = "{:<16} {:<9} {:<18} {:>9} {:>9} {:>11} {:>11} {:>8}"


def _tabulate(measured: Iterable[Measurement]) -> Iterator[str]:
    """A table with a line for each measurement; times also by those of the fastest."""
    rows = list(measured)
    yield _COLUMNS.format(
        "problem", "format", "back end", "output", "gradient", "forward ms", "backward ms", "slower"
    )
    fastest: dict[Any, float] = {}
    for row in rows:
        if row.failure is None:
            key, total = (row.problem, row.dtype), row.forward_ms + row.backward_ms
            fastest[key] = min(total, fastest.get(key, total))
    for row in rows:
        place = (row.problem, row.dtype, row.back_end)
        if row.failure is not None:
            yield f"{_COLUMNS.format(*place, '', '', '', '', '').rstrip()}  {row.failure}"
            continue
        ratio = (row.forward_ms + row.backward_ms) / fastest[row.problem, row.dtype]
        figures = (f"{row.output_error:.1e}", f"{row.gradient_error:.1e}")
        times = (f"{row.forward_ms:.2f}", f"{row.backward_ms:.2f}", f"{ratio:.1f}x")
        yield _COLUMNS.format(*place, *figures, *times) + ("  WRONG" if row.wrong else "")


def _describe_auto(device: str) -> Iterator[str]:
    for dtype in _DTYPES[device]:
        settled = settle_packed("auto", Needs(device, dtype))
        yield f"{_PRECISIONS[dtype]}: {settled.back_end} ({settled.reason})"


def _find_faults(measured: Iterable[Measurement]) -> Iterator[str]:
    for row in measured:
        where = f"attention back end {row.back_end}, {row.problem}, {row.dtype}"
        if row.wrong:
            yield f"{where}: computes wrong results here; set model.attention to another"
        elif row.failure is not None and row.back_end in ("sdpa", "eager"):
            yield f"{where}: does not run ({row.failure}); reinstall torch"
