"""How well a device is used while it trains: MFU, memory, load."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from posttrain.devices import Peak, read_load
from posttrain.logs import say
from posttrain.models.flops import count_flops
from posttrain.runtime import world_size
from posttrain.training.processes import sum_over_processes


class Gauges:
    """Adds up the useful operations of the batches between two log lines.

    Args:
        model: As it will be trained.
        peak: What one device can do at most.
    """

    def __init__(self, model: Any, peak: Peak) -> None:
        self._model_flops = count_flops(model)
        self._peak = peak
        self._done = 0.0
        say(f"peak: {peak.flops / 1e12:,.3g} TFLOP/s ({peak.source})")

    def count(self, batches: Iterable[dict[str, Any]]) -> None:
        """Take in batches that went forward and backward; one without weight is not useful."""
        for batch in batches:
            if "weightless" not in batch:
                scored = len(batch["score_positions"])
                self._done += self._model_flops.of_batch(batch["segments"], scored)

    def read(self, seconds: float) -> dict[str, float]:
        """Read and start anew; every process must.

        Args:
            seconds: Since it was read last.

        Returns:
            ``mfu``, the share of the devices' peak that went into useful operations (not those of
            a reference model, of writing answers, or of computing activations twice), and
            ``devices.read_load``.
        """
        done, self._done = sum_over_processes({"flops": self._done})["flops"], 0.0
        return {"mfu": done / seconds / (self._peak.flops * world_size()), **read_load()}
