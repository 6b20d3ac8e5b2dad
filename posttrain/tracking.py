"""Metrics of a training run: ``metrics.jsonl`` for programs, TensorBoard and services for eyes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from posttrain.config.tracking import SwanlabConfig, TrackingConfig, WandbConfig
from posttrain.errors import ConfigError
from posttrain.extras import require_extra
from posttrain.files import load_json, load_jsonl, write_errors, write_json, write_jsonl
from posttrain.logs import say

_START_SECONDS = 60
_FINISH_SECONDS = 50  # of a service's own end; closing waits a little longer


class Tracker(Protocol):
    """Somebody who is told of every line of metrics, and must never stop the training."""

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Take one line."""

    def close(self) -> None:
        """Finish within a bounded time."""


class MetricsRecorder:
    """Appends metrics of steps; use it as a context manager.

    Args:
        folder: The stage's folder.
        from_step: Step that a resumed run goes on from; later lines of the interrupted run are
            dropped, for these steps will be done again.
        trackers: Who else is told; they are closed with the recorder.
        tensorboard: Whether to write TensorBoard's event files.
    """

    def __init__(
        self,
        folder: Path,
        from_step: int = 0,
        trackers: Sequence[Tracker] = (),
        *,
        tensorboard: bool = True,
    ) -> None:
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
            self._file = self._path.open("a", encoding="utf-8")
        self._board = _open_tensorboard(folder / "tensorboard", from_step) if tensorboard else None

    def __enter__(self) -> MetricsRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._board:
            self._board.close()
        for tracker in self._trackers:
            tracker.close()

    def record(self, step: int, values: dict[str, float]) -> None:
        """Write one line.

        Args:
            step: Optimizer steps done.
            values: Metrics by name. Where there is a GPU, its load is added.
        """
        values = values | _read_gpu()
        with write_errors(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
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
    trackers = open_trackers(config, folder, name=name, settings=settings)
    return MetricsRecorder(folder, from_step, trackers, tensorboard=config.tensorboard)


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


def _require_key(service: str, variable: str, instead: str) -> None:
    if not os.environ.get(variable):
        raise ConfigError(
            f"tracking.{service}: the environment variable {variable} is not set",
            hint=f"set it, or write mode: {instead}",
        )


def open_trackers(
    config: TrackingConfig, folder: Path, *, name: str, settings: Mapping[str, Any]
) -> list[Tracker]:
    """Start the services that a recipe names; a resumed stage goes on with the same runs there.

    Args:
        config: Checked by ``check_trackers``.
        folder: The stage's folder.
        name: What the run is called there.
        settings: Shown there.

    Raises:
        PosttrainError: The folder cannot be written.
    """
    services: dict[str, tuple[Any, Callable[..., _Service]]] = {
        "wandb": (config.wandb, _open_wandb),
        "swanlab": (config.swanlab, _open_swanlab),
    }
    wanted = {n: pair for n, pair in services.items() if pair[0] and pair[0].mode != "disabled"}
    if not wanted:
        return []
    path = folder / "trackers.json"
    ids = load_json(path) if path.is_file() else {}
    ids |= {service: uuid.uuid4().hex[:16] for service in wanted if service not in ids}
    write_json(path, ids)
    return [
        BackgroundTracker(
            service, functools.partial(start, own, folder, ids[service], name, settings)
        )
        for service, (own, start) in wanted.items()
    ]


class _Service(Protocol):
    """A started run of a service."""

    def log(self, values: dict[str, float], step: int) -> Any:
        """Take one line."""

    def finish(self) -> Any:
        """Send what is left."""


class BackgroundTracker:
    """A service in a thread of its own: where it fails or hangs, one line says so.

    Args:
        name: Of the service, for people.
        start: Starts it; called in the thread.
        wait_seconds: How long closing waits for what is still to be sent; a minute where absent.
    """

    _MOST_WAITING = 10_000

    def __init__(
        self, name: str, start: Callable[[], _Service], *, wait_seconds: float | None = None
    ) -> None:
        self._name, self._start = name, start
        self._wait_seconds = _FINISH_SECONDS + 10 if wait_seconds is None else wait_seconds
        self._lines: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(
            self._MOST_WAITING
        )
        self._given_up = False
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Hand a line to the thread; never waits."""
        self._put((step, dict(values)))

    def close(self) -> None:
        """Let the thread finish, for a bounded time."""
        self._put(None)
        if not self._given_up:
            self._thread.join(self._wait_seconds)
            if self._thread.is_alive():
                self._give_up(f"did not finish within {self._wait_seconds:.0f} s")

    def _put(self, line: tuple[int, dict[str, float]] | None) -> None:
        if self._given_up:
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._give_up(f"has not answered for {self._MOST_WAITING:,} lines")

    def _work(self) -> None:
        try:
            service = self._start()
            while (line := self._lines.get()) is not None:
                if self._given_up:
                    return
                step, values = line
                service.log(values, step=step)
            service.finish()
        except (Exception, SystemExit) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._give_up(first)

    def _give_up(self, reason: str) -> None:
        if not self._given_up:
            self._given_up = True
            say(f"warning: {self._name}: {reason}; training goes on without it (metrics.jsonl)")


def _open_wandb(
    config: WandbConfig, folder: Path, run_id: str, name: str, settings: Mapping[str, Any]
) -> _Service:
    """Start or go on with a wandb run; machine, code and console are none of its business."""
    wandb = require_extra("wandb", "wandb")
    service: _Service = wandb.init(
        project=config.project,
        entity=config.entity,
        mode=config.mode,
        dir=str(folder),
        id=run_id,
        resume="allow",
        name=name,
        config=dict(settings),
        reinit="create_new",
        settings=wandb.Settings(
            init_timeout=_START_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            login_timeout=_START_SECONDS,
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )
    return service


class _SwanlabRun:
    """A SwanLab run with the two calls of ``_Service``."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def finish(self) -> None:
        self._run.finish()


def _open_swanlab(
    config: SwanlabConfig, folder: Path, run_id: str, name: str, settings: Mapping[str, Any]
) -> _Service:
    """Start or go on with a SwanLab run, without its console capture and machine description."""
    swanlab = require_extra("swanlab", "swanlab")
    with contextlib.suppress(Exception):  # where a later version has no such place, it speaks
        require_extra("swanlab.sdk.internal.pkg.console", "swanlab").c.quiet = True
    quiet = dict.fromkeys(("hardware", "runtime", "requirements", "git", "monitor"), False)
    run = swanlab.init(
        project=config.project,
        workspace=config.workspace,
        mode="online" if config.mode == "cloud" else config.mode,
        log_dir=str(folder / "swanlab"),
        id=run_id,
        resume="allow",
        reinit=True,
        name=name.replace("/", "-"),
        config=dict(settings),
        settings=swanlab.Settings(
            interactive=False,
            probe=swanlab.Settings.Probe(**quiet),
            terminal=swanlab.Settings.Terminal(proxy_type="none"),
        ),
    )
    return _SwanlabRun(run)


def _open_tensorboard(folder: Path, from_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # TensorBoard reads the files of one second in the order of their names, which is not theirs.
    if any(folder.glob(f"*.{int(time.time())}.*")):
        time.sleep(1 - time.time() % 1)
    return SummaryWriter(str(folder), purge_step=from_step + 1)


def _read_gpu() -> dict[str, float]:
    """Load of the GPU, where there is one: share of time it works, and its memory in use, bytes.

    The load needs NVIDIA's ``nvidia-ml-py``; without it only the memory is known.
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    values = {"gpu_memory_bytes": float(torch.cuda.memory_reserved())}
    with contextlib.suppress(Exception):  # no nvidia-ml-py, or a driver that does not tell
        values["gpu_utilization"] = torch.cuda.utilization() / 100
    return values
