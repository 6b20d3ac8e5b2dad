"""A loss that jumps: far above the median of those before it."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any

from posttrain.config.guards import LossSpikeConfig

_FEWEST = 16
_LEAST_SPREAD = 0.01  # nats; losses may lie around 0, as those of policies do
_TO_DEVIATION = 1.4826  # median distance to the median -> standard deviation, of a normal spread


class SpikeWatch:
    """Looks at every step's loss.

    Args:
        config: What counts as a spike.
    """

    def __init__(self, config: LossSpikeConfig) -> None:
        self.config = config
        self._losses: deque[float] = deque(maxlen=config.window)
        self._spiking = False

    def look(self, loss: float) -> str | None:
        """Take in a step's loss; of several spikes in a row the first one counts.

        A loss of exactly 0 is of a step that teaches nothing and is passed over.

        Returns:
            What it is, in words, where it is a spike.
        """
        if loss == 0:
            return None
        found = self._describe(loss)
        begins = found is not None and not self._spiking
        self._spiking = found is not None
        self._losses.append(loss)
        return found if begins else None

    def _describe(self, loss: float) -> str | None:
        if len(self._losses) < _FEWEST:
            return None
        middle = median(self._losses)
        spread = _TO_DEVIATION * median(abs(value - middle) for value in self._losses)
        spread = max(spread, 0.02 * abs(middle), _LEAST_SPREAD)
        if loss <= middle + self.config.factor * spread:
            return None
        return (
            f"the loss is {loss:.4g}, {(loss - middle) / spread:.0f} deviations above "
            f"{middle:.4g}, the median of the last {len(self._losses)}"
        )

    def save(self) -> dict[str, Any]:
        """What a resumed run needs to see the same spikes."""
        return {"losses": list(self._losses), "spiking": self._spiking}

    def load(self, kept: dict[str, Any]) -> None:
        """Take up what ``save`` has returned."""
        self._losses.extend(kept["losses"])
        self._spiking = kept["spiking"]
