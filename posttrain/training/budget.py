"""How many tokens are computed at once, and what is done where memory is too small for them.

A batch that does not fit is cut by its trees, and the optimizer step is done again: the same
examples, the same loss, from the same random state, in more and smaller micro-batches (which draw
other dropout masks from it than the whole batch would have). The smaller budget stays, and is kept
in the stage's folder with the step from which it counts, so that a resumed run cuts the same
batches as the unbroken one.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.data.pack import pack_sizes
from posttrain.errors import PosttrainError
from posttrain.files import load_json, write_json
from posttrain.layout import take_trees
from posttrain.logs import format_bytes, say
from posttrain.runtime import is_main_process, peak_memory_bytes
from posttrain.training.processes import least_over_processes

BUDGET_FILE = "memory.json"
HELP = (
    "set activation_checkpointing: true, lower data.max_tokens to leave such rows out, or tuning: "
    "lora or qlora"
)


class BatchTooLargeError(Exception):
    """Memory ran out at a batch.

    Args:
        batch: It.
    """

    def __init__(self, batch: dict[str, Any]) -> None:
        super().__init__()
        self.batch = batch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is too small, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _SAID)


# By torch's allocator for CPUs, and by oneDNN and cuBLAS, which have no error of their own for it.
_SAID = ("can't allocate memory", "std::bad_alloc", "ALLOC_FAILED", "could not create a primitive")


@contextlib.contextmanager
def name_too_large(batch: dict[str, Any], *, together: bool) -> Iterator[None]:
    """Name the batch at which memory runs out.

    Args:
        batch: What is computed inside the block.
        together: Whether the block meets other processes, who could not go back.

    Raises:
        BatchTooLargeError: Memory ran out.
        PosttrainError: The same, with other processes.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if together:
            raise PosttrainError(
                f"a batch of {batch['segments'].total_tokens:,} tokens does not fit into memory, "
                "and DeepSpeed cannot go back",
                hint="lower batch_tokens and raise accumulate by as much, or set "
                "activation_checkpointing: true; the same command goes on from the last "
                "checkpoint where settings allow it",
            ) from None
        # Its frames hold the tensors that must be given back.
        error.__traceback__ = None
        raise BatchTooLargeError(batch) from None


@contextlib.contextmanager
def memory_errors(stage: str) -> Iterator[None]:
    """Turn the end of memory outside of an optimizer step into one clear line.

    Raises:
        PosttrainError: Memory ran out: in loading, writing answers, validating or saving.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise PosttrainError(
            f"stage `{stage}`: memory is too small (peak {_describe_peak()}): "
            f"{str(error).splitlines()[0] if str(error) else 'no more to be had'}",
            hint="posttrain plan RECIPE tells what takes it; lower batch_tokens or, where answers "
            "are written, prompts_per_rollout and max_new_tokens, or set tuning: lora or qlora",
        ) from error


class TokenBudget:
    """Most tokens of a micro-batch, step by step.

    Args:
        folder: The stage's; what was learned there before is taken up.
        tokens: ``batch_tokens`` of the stage.
    """

    def __init__(self, folder: Path, tokens: int) -> None:
        self._path = folder / BUDGET_FILE
        self._kept: dict[str, Any] = {"batch_tokens": tokens, "cuts": []}
        if self._path.is_file():
            self._kept |= load_json(self._path)

    def at(self, step: int) -> int:
        """Tokens of a micro-batch in an optimizer step, counted from 1."""
        cuts = [cut["tokens"] for cut in self._kept["cuts"] if cut["step"] <= step]
        return int(min(cuts, default=self._kept["batch_tokens"]))

    def cut(self, batches: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        """Cut the batches that are larger than the budget; a larger tree is a batch of its own."""
        budget = self.at(step)
        return [part for batch in batches for part in _cut_batch(batch, budget)]

    def lower(self, step: int, tokens: int) -> None:
        """Keep to fewer tokens from a step on."""
        self._kept["cuts"] = [
            *(cut for cut in self._kept["cuts"] if cut["step"] != step),
            {"step": step, "tokens": tokens},
        ]
        if is_main_process():
            write_json(self._path, self._kept)

    def spend(
        self,
        batches: list[dict[str, Any]],
        step: int,
        attempt: Callable[[list[dict[str, Any]]], Tensor],
        describe: Callable[[dict[str, Any]], list[str]],
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Do an optimizer step within the budget, and anew within half of it where that is much.

        Args:
            batches: Of the step, this process's.
            step: Counted from 1.
            attempt: Sends the losses of batches backward, from clean gradients; raises
                ``BatchTooLargeError``.
            describe: Says where the rows of a batch were read.

        Returns:
            The batches as they were cut, and what ``attempt`` has returned.

        Raises:
            PosttrainError: One tree alone does not fit.
        """
        random = _random_state()
        while True:
            parts = self.cut(batches, step)
            losses, large = _try(attempt, parts)
            # Every process takes part; one that had enough memory goes along with the others.
            smaller = least_over_processes(self._below(step, large) if large else float("inf"))
            if smaller == float("inf") and losses is not None:
                return parts, losses
            peak = _describe_peak()
            _free_memory()
            if not smaller:
                raise _refuse(large, step, peak, describe)
            say(
                f"step {step}: a batch of up to {self.at(step):,} tokens does not fit into memory "
                f"(peak {peak}); from here on batches of up to {int(smaller):,} tokens are added "
                "up to the same step"
            )
            self.lower(step, int(smaller))
            _restore_random_state(random)

    def _below(self, step: int, large: dict[str, Any]) -> int:
        """Half the budget, or half of that, until it cuts the batch; 0 where nothing can."""
        sizes = large["segments"].tree_tokens()
        if len(sizes) == 1:
            return 0
        tokens = self.at(step) // 2
        while tokens >= sum(sizes):
            tokens //= 2
        return tokens


def _cut_batch(batch: dict[str, Any], budget: int) -> Iterator[dict[str, Any]]:
    sizes = np.array(batch["segments"].tree_tokens())
    if sizes.sum() <= budget or len(sizes) == 1:
        yield batch
        return
    fitting = np.flatnonzero(sizes <= budget)
    bins = [np.array([tree]) for tree in np.flatnonzero(sizes > budget)]
    if len(fitting):
        bins += pack_sizes(fitting, sizes, budget)
    for chosen in sorted((sorted(trees.tolist()) for trees in bins), key=lambda trees: trees[0]):
        yield take_trees(batch, chosen)


def _try(
    attempt: Callable[[list[dict[str, Any]]], Tensor], parts: list[dict[str, Any]]
) -> tuple[Tensor | None, dict[str, Any] | None]:
    try:
        return attempt(parts), None
    except BatchTooLargeError as error:
        return None, error.batch


def _refuse(
    large: dict[str, Any] | None,
    step: int,
    peak: str,
    describe: Callable[[dict[str, Any]], list[str]],
) -> PosttrainError:
    if large is None:
        return PosttrainError(f"step {step}: memory of another process is too small", hint=HELP)
    tokens = large["segments"].total_tokens
    return PosttrainError(
        f"step {step}: {describe(large)[0]}: this example of {tokens:,} tokens alone does not fit "
        f"into memory (peak {peak})",
        hint=HELP,
    )


def _random_state() -> list[Tensor]:
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda]


def _restore_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    for cuda in state[1:]:
        torch.cuda.set_rng_state(cuda)


def _describe_peak() -> str:
    on_gpu = torch.cuda.is_initialized()
    return format_bytes(torch.cuda.max_memory_allocated() if on_gpu else peak_memory_bytes())


def _free_memory() -> None:
    """Give back what the failed attempt held; its frames may lie in cycles."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
