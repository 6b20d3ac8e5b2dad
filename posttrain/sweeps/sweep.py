"""Run the trials of a sweep one after another; what was stopped goes on where it was."""

from __future__ import annotations

import difflib
import gc
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from posttrain.config.load import load_recipe, load_settings
from posttrain.config.recipe import MODEL_STAGES, Recipe
from posttrain.config.sweep import SweepConfig
from posttrain.errors import (
    ConfigError,
    InterruptedRunError,
    MissingExtraError,
    PosttrainError,
)
from posttrain.files import digest_json, load_json, publish_folder, write_errors, write_json
from posttrain.logs import log_file, say, show
from posttrain.reports.run import build_run_report
from posttrain.runs.folder import run_folder
from posttrain.runs.run import run_recipe
from posttrain.runtime import require_extra
from posttrain.sweeps.leaderboard import (
    TrialRow,
    rank_trials,
    write_best_recipe,
    write_leaderboard,
)
from posttrain.sweeps.metrics import collect_metrics
from posttrain.sweeps.search import (
    Settings,
    build_sampler,
    list_grid,
    list_probes,
    read_settings,
    suggest_settings,
)

_MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class SweepJob:
    """A sweep with everything it needs."""

    config: SweepConfig
    file: Path
    """Where the sweep's settings come from."""
    recipe_file: Path
    overrides: tuple[str, ...]
    """Over the recipe, in every trial."""
    command: str
    """What to type to go on after a stop."""

    def load_trial(self, settings: Settings, *more: str) -> Recipe:
        """Build the recipe of a trial."""
        chosen = [f"{key}={value}" for key, value in settings.items()]
        return load_recipe(self.recipe_file, [*self.overrides, *chosen, *more])


def plan_sweep(file: Path, recipe: Path | None, overrides: Sequence[str], command: str) -> SweepJob:
    """Read a sweep's settings.

    Args:
        file: The sweep.
        recipe: What to sweep, where the sweep does not name it itself.
        overrides: ``sweep.key=value`` for the sweep, other ``key=value`` for the recipe.
        command: What to type to go on after a stop.

    Raises:
        ConfigError: A mistake in the sweep, or no recipe.
    """
    own = [text.removeprefix("sweep.") for text in overrides if text.startswith("sweep.")]
    config = load_settings(SweepConfig, file, own)
    recipe_file = recipe or config.recipe
    if recipe_file is None:
        raise ConfigError(
            f"{file}: names no recipe",
            hint=f"write recipe: FILE in it, or type posttrain sweep RECIPE {file}",
        )
    others = tuple(text for text in overrides if not text.startswith("sweep."))
    return SweepJob(config, file, recipe_file, others, command)


def run_sweep(job: SweepJob) -> Path:
    """Run or go on with a sweep.

    Args:
        job: What to search and where.

    Returns:
        The sweep's folder: a run per trial, ``leaderboard.md``, ``.csv``, ``report.html`` and
        ``best.yaml``.

    Raises:
        ConfigError: A key, a value or the metric does not exist; the folder holds another sweep.
        PosttrainError: Too many trials failed, or the folder cannot be written.
    """
    require_extra("optuna", "sweep")
    recipe = job.load_trial({})
    _check_search(job)
    _check_metric_stage(job.config, recipe)
    folder = run_folder(recipe).with_name(job.config.name or f"{recipe.name}-sweep"[:64])
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0), log_file(folder / "sweep.log"):
            _claim(job, recipe, folder)
            _Sweep(job, folder).run()
    except Timeout:
        raise ConfigError(
            f"{folder}: another process is working on this sweep", hint="wait for it to end"
        ) from None
    return folder


def _check_search(job: SweepJob) -> None:
    """Try every choice and bound on the recipe, before anything is run."""
    written = job.file.read_text(encoding="utf-8").splitlines()
    problems = []
    for key, value in list_probes(job.config):
        try:
            job.load_trial({key: value})
        except ConfigError as error:
            line = next((i for i, text in enumerate(written, 1) if key in text), 0)
            where = f"{job.file}:{line}: search" if line else f"{job.file}: search"
            problems.append(str(error).replace(f"command line `{key}={value}`", where))
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _check_metric_stage(config: SweepConfig, recipe: Recipe) -> None:
    names = [stage.name for stage in recipe.stages]
    if not any(config.metric.startswith(f"{name}.") for name in names):
        raise ConfigError(
            f"metric: `{config.metric}` begins with no stage of the recipe",
            hint=f"there are: {', '.join(names)}",
        )


def _claim(job: SweepJob, recipe: Recipe, folder: Path) -> None:
    """Refuse a folder whose trials had another recipe or search space: they do not compare."""
    kept = recipe.model_dump(mode="json", exclude={"name", "output", "tracking"})
    search = job.config.model_dump(mode="json", include={"search"})
    digest = digest_json({"recipe": kept, "search": search})
    path = folder / "sweep.json"
    if path.is_file() and load_json(path)["digest"] != digest and any(folder.glob("trial-*")):
        raise ConfigError(
            f"{folder}: holds trials of another recipe or search space",
            hint="delete it, or give this sweep another folder: sweep.name=NAME",
        )
    settings = job.config.model_dump(mode="json")
    write_json(path, {"digest": digest, "settings": settings, "recipe": str(job.recipe_file)})


class _Sweep:
    """The study and its loop."""

    def __init__(self, job: SweepJob, folder: Path) -> None:
        optuna = require_extra("optuna", "sweep")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._job, self._config, self._folder = job, job.config, folder
        self._states = optuna.trial.TrialState
        # Another metric over the same trials is another study; finished runs are found again.
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder / 'study.db'}",
            study_name=f"{self._config.metric} {self._config.better}",
            direction=self._config.better,
            load_if_exists=True,
        )
        self._wanted = self._config.trials
        if self._config.sampler == "grid":
            grid = list_grid(self._config)
            self._wanted = min(self._wanted, len(grid))
            for parameters in grid[: self._wanted]:
                self._study.enqueue_trial(parameters, skip_if_exists=True)

    def run(self) -> None:
        """Run trials until there are as many as wanted."""
        config = self._config
        before = len(self._list_ended())
        say(
            f"sweep {self._folder}: {config.better} {config.metric}, {config.sampler}, "
            f"{self._wanted} trials" + (f", {before} of them done" if before else "")
        )
        failures = 0
        while True:
            cut_off = self._study.get_trials(deepcopy=False, states=(self._states.RUNNING,))
            if not cut_off and len(self._list_ended()) >= self._wanted:
                break
            number, settings = self._take_up(cut_off[0]) if cut_off else self._ask()
            if len(settings) < len(config.search):  # killed between two suggestions
                self._study.tell(number, state=self._states.FAIL)
                continue
            failures = 0 if self._run_trial(number, settings) else failures + 1
            table = self._write_results()
            if failures >= config.max_failures:
                show(table)
                raise PosttrainError(
                    f"{failures} trials in a row failed, the last one with: "
                    f"{self._read_note(number).get('error')}",
                    hint=f"see {self._folder / 'leaderboard.md'}; when it is mended, "
                    f"go on with: {self._job.command}",
                )
        show(self._write_results())

    def _list_ended(self) -> list[Any]:
        ended = (self._states.COMPLETE, self._states.FAIL)
        found = self._study.get_trials(deepcopy=False, states=ended)
        return [t for t in found if len(t.params) == len(self._config.search)]

    def _ask(self) -> tuple[int, Settings]:
        self._study.sampler = build_sampler(self._config, len(self._study.trials))
        trial = self._study.ask()
        return trial.number, suggest_settings(trial, self._config)

    def _take_up(self, trial: Any) -> tuple[int, Settings]:
        say(f"trial {trial.number}: was cut off, goes on")
        return trial.number, read_settings(trial.params)

    def _note_path(self, number: int) -> Path:
        return self._folder / f"trial-{number:04d}" / "trial.json"

    def _read_note(self, number: int) -> dict[str, Any]:
        path = self._note_path(number)
        return load_json(path) if path.is_file() else {}

    def _run_trial(self, number: int, settings: Settings) -> bool:
        """Run one trial and tell the study; whether it gave a value."""
        note = self._read_note(number)
        if note.get("settings") != settings:
            note = {"number": number, "settings": settings, "attempts": 0}
        note["attempts"] += 1
        write_json(self._note_path(number), note)
        say(f"trial {number}: " + " ".join(f"{k}={v}" for k, v in settings.items()))
        started = time.time()
        value: float | None = None
        error = ""
        try:
            if note["attempts"] > _MOST_ATTEMPTS:
                raise PosttrainError(f"was cut off {_MOST_ATTEMPTS} times, such as for memory")
            value = self._measure(number, settings)
        except (InterruptedRunError, MissingExtraError, _NoSuchMetricError):
            raise
        except PosttrainError as caught:
            error = str(caught).splitlines()[0]
        except Exception as caught:  # a trial may meet what no other one does, such as no memory
            error = (f"{type(caught).__name__}: {caught}").splitlines()[0]
            self._note_path(number).with_name("error.txt").write_text(traceback.format_exc())
        state = self._states.FAIL if value is None else self._states.COMPLETE
        note |= {"value": value, "error": error, "seconds": time.time() - started}
        write_json(self._note_path(number), note)
        self._study.tell(number, value, state=state)
        told = f"failed: {error}" if value is None else f"{self._config.metric} = {value:.6g}"
        say(f"trial {number}: {told}")
        _free_memory()
        return value is not None

    def _measure(self, number: int, settings: Settings) -> float:
        name = f"trial-{number:04d}"
        recipe = self._job.load_trial(settings, f"name={name}")
        recipe = recipe.model_copy(update={"output": self._folder})
        self._share_finished(recipe, self._folder / name)
        run = run_recipe(recipe, self._job.command)
        metrics = collect_metrics(run)
        if self._config.metric not in metrics:
            if self._study.get_trials(states=(self._states.COMPLETE,)):
                raise PosttrainError(f"{self._config.metric} is not a number in this trial")
            raise _NoSuchMetricError(self._config.metric, list(metrics))
        return metrics[self._config.metric]

    def _share_finished(self, recipe: Recipe, run: Path) -> None:
        """Copy what an earlier trial did before its first training, where that is the same."""
        for earlier in sorted(self._folder.glob("trial-*")):
            if earlier == run or not (earlier / "config.json").is_file():
                continue
            done, wanted = load_json(earlier / "config.json"), recipe.model_dump(mode="json")
            if any(done.get(key) != wanted[key] for key in ("model", "compute")):
                continue
            for old, new in zip(done["stages"], wanted["stages"], strict=False):
                finished = (earlier / old["name"] / "stage.json").is_file()
                if new["stage"] in MODEL_STAGES or old != new or not finished:
                    break
                if not (run / new["name"]).exists():
                    with publish_folder(run / new["name"]) as copy:
                        shutil.copytree(earlier / old["name"], copy, dirs_exist_ok=True)
            environment = earlier / "environment.json"
            if environment.is_file() and not (run / "environment.json").exists():
                write_json(run / "environment.json", load_json(environment))
            return

    def _write_results(self) -> str:
        rows = [self._build_row(trial) for trial in self._study.get_trials(deepcopy=False)]
        rows = [row for row in rows if row.settings]
        best = rank_trials(rows, self._config)[0]
        if best.value is not None:
            found = self._job.load_trial(best.settings)
            path = self._folder / "best.yaml"
            write_best_recipe(path, best, found, self._job.recipe_file, self._config.metric)
        for row in rows:
            run = self._folder / row.name
            if row.state == "complete" and not (run / "report.html").is_file():
                build_run_report(run)
        return write_leaderboard(self._folder, rows, self._config)

    def _build_row(self, trial: Any) -> TrialRow:
        note = self._read_note(trial.number)
        states = {self._states.COMPLETE: "complete", self._states.FAIL: "failed"}
        return TrialRow(
            number=trial.number,
            state=states.get(trial.state, "running"),
            value=trial.value if trial.state == self._states.COMPLETE else None,
            settings=read_settings(trial.params),
            seconds=note.get("seconds"),
            error=note.get("error", ""),
        )


class _NoSuchMetricError(ConfigError):
    """The first trial shows that no trial can have the metric."""

    def __init__(self, metric: str, known: Sequence[str]) -> None:
        near = difflib.get_close_matches(metric, known, n=1, cutoff=0.5)
        stage = metric.split(".")[0]
        shown = [name for name in known if name.startswith(f"{stage}.")] or list(known)
        hint = f"did you mean `{near[0]}`? " if near else ""
        super().__init__(
            f"metric: this recipe has no `{metric}`", hint=f"{hint}there are: {', '.join(shown)}"
        )


def _free_memory() -> None:
    """Give a trial's model back before the next one is built."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
