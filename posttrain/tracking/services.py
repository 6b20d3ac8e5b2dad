"""How each service is started, told and ended; nothing of machine, code or console goes there."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config.tracking import MlflowConfig, SwanlabConfig, TrackingConfig, WandbConfig
from posttrain.extras import require_extra
from posttrain.tracking import background
from posttrain.tracking.background import Service


@dataclass(frozen=True)
class RunFacts:
    """What a service is told of a stage."""

    folder: Path
    """The stage's; local files go there."""
    from_step: int
    """Step that a resumed run goes on from."""
    id: str
    """The same for all attempts at the stage."""
    name: str
    settings: Mapping[str, Any]


def find_services(config: TrackingConfig) -> dict[str, Callable[[RunFacts], Service]]:
    """Return how to start each service that a recipe asks for."""
    found: dict[str, Callable[[RunFacts], Service]] = {}
    if config.tensorboard:
        found["tensorboard"] = _Tensorboard
    if (wandb := config.wandb) and wandb.mode != "disabled":
        found["wandb"] = lambda run: _Wandb(wandb, run)
    if (swanlab := config.swanlab) and swanlab.mode != "disabled":
        found["swanlab"] = lambda run: _Swanlab(swanlab, run)
    if mlflow := config.mlflow:
        found["mlflow"] = lambda run: _Mlflow(mlflow, run)
    return found


class _Tensorboard:
    """TensorBoard's event files."""

    def __init__(self, run: RunFacts) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        # TensorBoard reads the files of one second in the order of their names, not of writing.
        if any(folder.glob(f"*.{int(time.time())}.*")):
            time.sleep(1 - time.time() % 1)
        _quiet_writer_threads()
        self._writer = SummaryWriter(str(folder), purge_step=run.from_step + 1)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # or a killed run would lose its last two minutes

    def finish(self, *, failed: bool) -> None:
        self._writer.close()


@functools.cache
def _quiet_writer_threads() -> None:
    """Let TensorBoard's thread die without a traceback on a full disk: our next call tells it."""
    shown = threading.excepthook

    def show(error: threading.ExceptHookArgs) -> None:
        name = type(error.thread).__name__
        if not (isinstance(error.exc_value, OSError) and name == "_AsyncWriterThread"):
            shown(error)

    threading.excepthook = show


class _Wandb:
    """A run of Weights & Biases, new or gone on with."""

    def __init__(self, config: WandbConfig, run: RunFacts) -> None:
        wandb = require_extra("wandb", "wandb")
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            mode=config.mode,
            dir=str(run.folder),
            id=run.id,
            resume="allow",
            name=run.name,
            config=dict(run.settings),
            reinit="create_new",
            settings=wandb.Settings(
                init_timeout=background.START_SECONDS,
                finish_timeout=background.FINISH_SECONDS,
                login_timeout=background.START_SECONDS,
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def finish(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Swanlab:
    """A SwanLab run, new or gone on with."""

    def __init__(self, config: SwanlabConfig, run: RunFacts) -> None:
        swanlab = require_extra("swanlab", "swanlab")
        with contextlib.suppress(Exception):  # where a later version has no such place, it speaks
            require_extra("swanlab.sdk.internal.pkg.console", "swanlab").c.quiet = True
        quiet = dict.fromkeys(("hardware", "runtime", "requirements", "git", "monitor"), False)
        self._run = swanlab.init(
            project=config.project,
            workspace=config.workspace,
            mode="online" if config.mode == "cloud" else config.mode,
            log_dir=str(run.folder / "swanlab"),
            id=run.id,
            resume="allow",
            reinit=True,
            name=run.name.replace("/", "-"),
            config=dict(run.settings),
            settings=swanlab.Settings(
                interactive=False,
                probe=swanlab.Settings.Probe(**quiet),
                terminal=swanlab.Settings.Terminal(proxy_type="none"),
            ),
        )

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def finish(self, *, failed: bool) -> None:
        if failed:
            self._run.finish(state="crashed", error="training failed; see train.log")
        else:
            self._run.finish()


class _Mlflow:
    """An MLflow run, new or gone on with, in a SQLite file or on a server."""

    _TAG = "posttrain.run"
    _LONGEST_PARAMETER = 6000

    def __init__(self, config: MlflowConfig, run: RunFacts) -> None:
        mlflow = import_mlflow()
        self._metric = mlflow.entities.Metric
        own = f"sqlite:///{(run.folder / 'mlflow.db').resolve()}"
        uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or own
        self._client = mlflow.MlflowClient(uri)
        artifacts = str(run.folder / "mlflow-artifacts") if uri.startswith("sqlite:") else None
        experiment = self._find_experiment(config.experiment, artifacts, mlflow)
        known = self._client.search_runs([experiment], f"tags.`{self._TAG}` = '{run.id}'")
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        # A user's name is none of the service's business; without a tag it would look it up.
        tags = {self._TAG: run.id, "mlflow.user": "posttrain"}
        made = self._client.create_run(experiment, tags=tags, run_name=run.name)
        self._id = made.info.run_id
        parameters = [
            mlflow.entities.Param(name, text[: self._LONGEST_PARAMETER])
            for name, text in _flatten(run.settings)
        ]
        for start in range(0, len(parameters), 100):  # no more in one call
            self._client.log_batch(self._id, params=parameters[start : start + 100])

    def _find_experiment(self, name: str, artifacts: str | None, mlflow: Any) -> str:
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name, artifact_location=artifacts))
        except mlflow.exceptions.MlflowException:
            if found := self._client.get_experiment_by_name(name):  # made by another run just now
                return str(found.experiment_id)
            raise

    def log(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def finish(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


def import_mlflow() -> Any:
    """Import MLflow, silent and without its usage figures, which it decides on at that moment.

    Raises:
        MissingExtraError: It, or what it keeps its SQLite files with, is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    for module in ("sqlalchemy", "alembic"):  # its smallest package leaves them out
        require_extra(module, "mlflow")
    return require_extra("mlflow", "mlflow")


def _flatten(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value)
