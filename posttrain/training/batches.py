"""The batches of a run as a torch dataset: item i is the i-th planned batch, packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from posttrain.config.train import FixedDataStage
from posttrain.data.pack import plan_batches
from posttrain.data.store import ExampleStore
from posttrain.errors import ConfigError


class Done(NamedTuple):
    """What a number of steps amounts to."""

    steps: int
    """Optimizer steps."""
    tokens: int
    trained_tokens: int
    """Tokens with loss."""
    epochs: float
    """Passes over the data."""
    examples: int
    """Examples seen; one that came twice counts twice."""


@dataclass(frozen=True)
class Schedule:
    """What a stage will do, settled before its first step."""

    batches: list[np.ndarray[Any, Any]]
    """Example indices per batch."""
    batch_size_tokens: np.ndarray[Any, Any]
    """[batches] tokens in each."""
    batch_trained_tokens: np.ndarray[Any, Any]
    """[batches] tokens with loss in each."""
    examples: int
    """In one pass over the data."""
    batches_per_step: int
    """Batches of all devices that one optimizer step adds up."""

    @property
    def steps(self) -> int:
        """Optimizer steps; the last one may have fewer batches."""
        return -(-len(self.batches) // self.batches_per_step)

    def done(self, steps: int) -> Done:
        """What is behind after a number of optimizer steps."""
        count = min(steps * self.batches_per_step, len(self.batches))
        seen = sum(len(batch) for batch in self.batches[:count])
        return Done(
            steps,
            int(self.batch_size_tokens[:count].sum()),
            int(self.batch_trained_tokens[:count].sum()),
            seen / self.examples,
            seen,
        )


def build_schedule(
    store: ExampleStore, stage: FixedDataStage, *, seed: int, processes: int = 1
) -> Schedule:
    """Plan every batch of a stage.

    Args:
        store: Training examples.
        stage: Batch size, and epochs or steps.
        seed: Of the order.
        processes: Devices that each take a batch at once.

    Returns:
        The schedule.

    Raises:
        ConfigError: An example is longer than a batch.
    """
    lengths = store.lengths
    assert stage.batch_tokens != "auto"  # runs.room settles it
    if lengths.max() > stage.batch_tokens:
        raise ConfigError(
            f"{store.origin(int(lengths.argmax()))}: this example has {lengths.max()} tokens, "
            f"batch_tokens is {stage.batch_tokens}",
            hint="raise batch_tokens, or lower data.max_tokens to reject such rows",
        )
    per_step = stage.accumulate * processes
    batches = plan_batches(
        lengths,
        batch_tokens=stage.batch_tokens,
        seed=seed,
        epochs=None if stage.steps else stage.epochs,
        batches=stage.steps * per_step if stage.steps else None,
        draw=store.mixture.draw if store.mixture else None,
    )
    trained = store.count_trained()
    return Schedule(
        batches,
        np.array([lengths[batch].sum() for batch in batches]),
        np.array([trained[batch].sum() for batch in batches]),
        len(store.epoch(0)),
        per_step,
    )


class PlannedBatches(Dataset[dict[str, Any]]):
    """Packed batches in the order of a plan.

    Args:
        store: Encoded examples.
        batches: Example indices per batch.
        finish: Adds to a packed batch what the method needs besides, or changes it; gets the
            arrays of ``layout.build_batch``, the examples' indices and the batch's number.
    """

    def __init__(
        self,
        store: ExampleStore,
        batches: Sequence[np.ndarray[Any, Any]],
        finish: Finish | None = None,
    ) -> None:
        self.store = store
        self.batches = batches
        self.finish = finish

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        packed = self.store.batch(self.batches[index])
        if self.finish:
            packed = self.finish(packed, self.batches[index], index)
        return {**to_tensors(packed), "number": index}

    def origins(self, index: int) -> list[str]:
        """Where the examples of a batch were read."""
        return [str(self.store.origin(int(example))) for example in self.batches[index]]


Finish = Callable[[dict[str, Any], np.ndarray[Any, Any], int], dict[str, Any]]


def to_tensors(packed: dict[str, Any]) -> dict[str, Any]:
    """Turn the arrays of a packed batch into tensors."""
    return {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in packed.items()
    }


def take_only(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate: an item is a whole batch already."""
    (batch,) = items
    return batch
