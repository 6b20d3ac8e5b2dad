"""Metrics of a training run: ``metrics.jsonl`` for programs, TensorBoard for eyes."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from posttrain.files import load_jsonl, write_errors, write_jsonl


class MetricsRecorder:
    """Appends metrics of steps; use it as a context manager.

    Args:
        folder: The stage's folder.
        from_step: Step that a resumed run goes on from; later lines of the interrupted run are
            dropped, for these steps will be done again.
    """

    def __init__(self, folder: Path, from_step: int = 0) -> None:
        self._path = folder / "metrics.jsonl"
        self.seconds_before = 0.0
        """Training time of the interrupted attempts, as far as their steps are kept."""
        self.step_seconds_before = 0.0
        """The same without validation and checkpoints."""
        if self._path.exists():
            done = [row for row in load_jsonl(self._path) if row["step"] <= from_step]
            self.seconds_before = max((row.get("seconds", 0.0) for row in done), default=0.0)
            self.step_seconds_before = max(
                (row.get("step_seconds", 0.0) for row in done), default=0.0
            )
            write_jsonl(self._path, done)
        with write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        self._board = _open_tensorboard(folder / "tensorboard", from_step)

    def __enter__(self) -> MetricsRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._board.close()

    def record(self, step: int, values: dict[str, float]) -> None:
        """Write one line.

        Args:
            step: Optimizer steps done.
            values: Metrics by name.
        """
        with write_errors(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def _open_tensorboard(folder: Path, from_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=from_step + 1)
