"""Several processes at one training stage: who writes, what all must agree on.

Rows are prepared before any process group exists; no process waits for files inside a collective.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset

from posttrain.config.model import ParallelConfig
from posttrain.errors import ConfigError
from posttrain.extras import require_extra
from posttrain.runtime import is_launched, is_main_process

_Item = TypeVar("_Item")


class StepBatches(Dataset[dict[str, Any]]):
    """One process's share of the planned batches, step by step.

    The processes take the batches of a step side by side, so a step holds the same batches as one
    process would add up. Where the last ones do not suffice for all, the others get a batch
    without weight: all must take part in every call.

    Args:
        batches: All batches, in order.
        accumulate: Batches of a step for each process.
        rank: Of this process.
        count: Processes.
    """

    def __init__(self, batches: Any, accumulate: int, rank: int, count: int) -> None:
        self.batches = batches
        self.accumulate = accumulate
        self.rank = rank
        self.count = count

    def __len__(self) -> int:
        return -(-len(self.batches) // (self.accumulate * self.count))

    def __getitem__(self, step: int) -> dict[str, Any]:
        first = step * self.accumulate * self.count
        left = min(self.accumulate * self.count, len(self.batches) - first)
        turns = range(-(-left // self.count))
        own = [first + turn * self.count + self.rank for turn in turns]
        return {"number": step, "batches": [self._batch(number) for number in own]}

    def origins(self, step: int) -> list[str]:
        """Where the rows of a step were read, those of all processes."""
        size = self.accumulate * self.count
        numbers = range(step * size, min((step + 1) * size, len(self.batches)))
        return [origin for number in numbers for origin in self.batches.origins(number)]

    def _batch(self, number: int) -> dict[str, Any]:
        if number < len(self.batches):
            item: dict[str, Any] = self.batches[number]
            return item
        return {**self.batches[len(self.batches) - 1], "weightless": True}


def sum_over_processes(values: dict[str, float]) -> dict[str, float]:
    """Add up each value over all processes; every process must ask for the same names."""
    names = sorted(values)
    totals = dict(zip(names, _reduce([values[n] for n in names], dist.ReduceOp.SUM), strict=True))
    return {name: totals[name] for name in values}


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(sum_over_processes({"flag": float(flag)})["flag"])


def least_over_processes(value: float) -> float:
    """Return the smallest of the values that the processes have."""
    return _reduce([value], dist.ReduceOp.MIN)[0]


def _reduce(values: list[float], operation: Any) -> list[float]:
    if not dist.is_initialized():
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    reduced = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(reduced, op=operation)
    found: list[float] = reduced.tolist()
    return found


def gather_over_processes(items: list[_Item]) -> list[_Item]:
    """Join what all processes have, in their order; every process gets all of it."""
    if not dist.is_initialized():
        return items
    parts: list[list[_Item]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def average_gradients(model: torch.nn.Module) -> None:
    """Replace every gradient by its mean over all processes; one that a process lacks counts as 0.

    Not by DDP in its last backward pass: where memory runs out in it, the others wait for ever.
    """
    if not dist.is_initialized():
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    # An expert that no token was sent to has a gradient in some processes only.
    given = torch.tensor([p.grad is not None for p in trained], device=trained[0].device).int()
    dist.all_reduce(given)
    for parameter, count in zip(trained, given.tolist(), strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in trained if p.grad is not None]
    bucket: list[Tensor] = []
    for number, gradient in enumerate(gradients, start=1):
        bucket.append(gradient)
        if number == len(gradients) or sum(g.nbytes for g in bucket) >= _BUCKET_BYTES:
            _average(bucket)
            bucket = []


_BUCKET_BYTES = 2**25


def _average(gradients: list[Tensor]) -> None:
    for dtype in {g.dtype for g in gradients}:
        own = [g for g in gradients if g.dtype == dtype]
        flat = torch.cat([g.reshape(-1) for g in own]).div_(dist.get_world_size())
        dist.all_reduce(flat)
        parts = flat.split([g.numel() for g in own])
        torch._foreach_copy_(own, [p.view_as(g) for p, g in zip(parts, own, strict=True)])


@contextlib.contextmanager
def shared_folder(publish: contextlib.AbstractContextManager[Path]) -> Iterator[Path]:
    """Let all processes write into a folder that the first one makes and publishes.

    Args:
        publish: Yields a folder under a provisional name and gives it its own at the end; entered
            by the first process only.

    Yields:
        The provisional folder.
    """
    if not dist.is_initialized():
        with publish as folder:
            yield folder
        return
    with publish if is_main_process() else contextlib.nullcontext() as own:
        told = [str(own)]
        dist.broadcast_object_list(told)
        yield Path(told[0])
        dist.barrier()
    dist.barrier()


def build_deepspeed(parallel: ParallelConfig) -> dict[str, Any] | str | None:
    """DeepSpeed's settings for a recipe's ``parallel``; none where it is not used.

    Raises:
        ConfigError: There is no launcher, which DeepSpeed needs even for one process.
        MissingExtraError: DeepSpeed is not installed.
    """
    if parallel.strategy == "ddp" and parallel.deepspeed is None:
        return None
    require_extra("deepspeed", "deepspeed")
    if parallel.deepspeed is not None:
        _check_deepspeed(parallel.deepspeed)
    if not is_launched():
        raise ConfigError(
            f"parallel.strategy: {parallel.strategy} needs a launcher",
            hint="start with: torchrun --nproc_per_node N -m posttrain train RECIPE",
        )
    if parallel.deepspeed is not None:
        return str(parallel.deepspeed)
    stage = 3 if parallel.strategy == "zero3" else 2
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": True}
    if stage == 3:
        zero |= {
            "stage3_gather_16bit_weights_on_model_save": True,
            "stage3_param_persistence_threshold": 0,
        }
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        # The optimizer is transformers' own AdamW, as without DeepSpeed.
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero,
    }
    if parallel.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
        automatic = dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")
        settings["optimizer"] = {"type": "AdamW", "params": automatic}
        if parallel.offload == "all":
            zero["offload_param"] = {"device": "cpu"}
    return settings


def shares_weights(parallel: ParallelConfig) -> bool:
    """Whether no process holds a whole matrix: ZeRO-3, by its name or in a DeepSpeed file.

    Raises:
        ConfigError: The file cannot be read, or names no ZeRO stage.
    """
    if parallel.deepspeed is not None:
        return _check_deepspeed(parallel.deepspeed) == 3
    return parallel.strategy == "zero3"


def _check_deepspeed(path: Path) -> int:
    """Look at a DeepSpeed file before DeepSpeed does; return its ZeRO stage.

    Raises:
        ConfigError: It cannot be read, or names no ZeRO stage.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        stage = settings["zero_optimization"]["stage"]
    except (OSError, ValueError) as error:
        raise ConfigError(f"parallel.deepspeed {path}: cannot be read: {error}") from error
    except (KeyError, TypeError):
        stage = None
    if stage not in (1, 2, 3):
        raise ConfigError(
            f"parallel.deepspeed {path}: no `zero_optimization.stage` of 1, 2 or 3",
            hint="write it, or use parallel.strategy: zero2 or zero3 without a file",
        )
    return int(stage)


@contextlib.contextmanager
def gathered(parameter: torch.nn.Parameter) -> Iterator[torch.nn.Parameter]:
    """Hold a whole parameter, where ZeRO-3 has shared it out over the processes."""
    if not hasattr(parameter, "ds_id"):
        yield parameter
        return
    deepspeed = require_extra("deepspeed", "deepspeed")
    with deepspeed.zero.GatheredParameters([parameter]):
        yield parameter
