"""Metrics of a training run: ``metrics.jsonl`` for programs, TensorBoard and services for eyes."""

from __future__ import annotations

import functools
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from posttrain.config.tracking import TrackingConfig
from posttrain.errors import ConfigError
from posttrain.extras import require_extra
from posttrain.files import load_json, load_jsonl, write_errors, write_json, write_jsonl
from posttrain.logs import say
from posttrain.tracking.background import BackgroundTracker, Tracker
from posttrain.tracking.services import RunFacts, find_services, import_mlflow


class MetricsRecorder:
    """Appends metrics of steps; use it as a context manager.

    Args:
        folder: The stage's folder.
        from_step: Step that a resumed run goes on from; later lines of the interrupted run are
            dropped, for these steps will be done again.
        trackers: Who else is told; they are closed with the recorder.
    """

    def __init__(self, folder: Path, from_step: int = 0, trackers: Sequence[Tracker] = ()) -> None:
        self._path = folder / "metrics.jsonl"
        self._trackers = trackers
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
            self._file = self._path.open("ab", buffering=0)
        self._unwritten = b""

    def __enter__(self) -> MetricsRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._unwritten:
            lines = self._unwritten.count(b"\n")
            say(f"warning: {self._path}: {lines} lines could not be written and are lost")
        for tracker in self._trackers:
            tracker.close(failed=error is not None)

    def record(self, step: int, values: dict[str, float]) -> None:
        """Write one line; where the disk refuses it, it is written with the next one.

        Args:
            step: Optimizer steps done.
            values: Metrics by name.
        """
        waited = bool(self._unwritten)
        self._unwritten += json.dumps({"step": step, **values}).encode() + b"\n"
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            if not waited:
                reason = error.strerror or str(error)
                say(f"warning: cannot write {self._path}: {reason}; trying again with later lines")
        for tracker in self._trackers:
            tracker.record(step, values)


def open_recorder(
    config: TrackingConfig,
    folder: Path,
    *,
    from_step: int,
    name: str,
    settings: Mapping[str, Any],
) -> MetricsRecorder:
    """Open a stage's recorder with every tracker of the recipe.

    Args:
        config: The recipe's ``tracking``.
        folder: The stage's folder; local files of the trackers go there too.
        from_step: Step that a resumed run goes on from.
        name: What the trackers call the run, such as ``demo/sft``.
        settings: Of the stage, shown by the trackers; JSON-like, without secrets.
    """
    trackers = _open_trackers(config, folder, from_step, name, settings)
    return MetricsRecorder(folder, from_step, trackers)


def check_trackers(config: TrackingConfig) -> None:
    """Look for packages and keys before anything is spent.

    Raises:
        MissingExtraError: A tracker's package is not installed.
        ConfigError: An online service has no key in the environment, and would ask for one.
    """
    if config.wandb and config.wandb.mode != "disabled":
        require_extra("wandb", "wandb")
        if config.wandb.mode == "online":
            _require_key("wandb", "WANDB_API_KEY", "offline")
    if config.swanlab and config.swanlab.mode != "disabled":
        require_extra("swanlab", "swanlab")
        if config.swanlab.mode == "cloud":
            _require_key("swanlab", "SWANLAB_API_KEY", "offline")
        elif config.swanlab.mode == "local":
            require_extra("swanboard", "swanlab")
    if config.mlflow:
        import_mlflow()


def _require_key(service: str, variable: str, instead: str) -> None:
    if not os.environ.get(variable):
        raise ConfigError(
            f"tracking.{service}: the environment variable {variable} is not set",
            hint=f"set it, or write mode: {instead}",
        )


def _open_trackers(
    config: TrackingConfig, folder: Path, from_step: int, name: str, settings: Mapping[str, Any]
) -> list[Tracker]:
    """Start what a recipe names; a resumed stage goes on with the same runs there."""
    services = find_services(config)
    path = folder / "trackers.json"
    ids = load_json(path) if path.is_file() else {}
    new = {n: uuid.uuid4().hex[:16] for n in services if n != "tensorboard" and n not in ids}
    if new:
        ids |= new
        write_json(path, ids)
    return [
        BackgroundTracker(
            service,
            functools.partial(
                start, RunFacts(folder, from_step, ids.get(service, ""), name, settings)
            ),
        )
        for service, start in services.items()
    ]
