"""What the stages of a run have made so far, and what a stage's result depends on."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain import __version__
from posttrain.config.data import DataConfig, SourceConfig, TaskData
from posttrain.config.evaluation import GRADING, EvaluateStage, ItemsTask
from posttrain.config.guards import GUARDS_WITHOUT_EFFECT
from posttrain.config.model import ModelConfig
from posttrain.config.recipe import (
    CHAIN_STAGES,
    Recipe,
    Stage,
    named_parent,
    replace_sources,
    stage_sources,
)
from posttrain.config.train import TrainingStage
from posttrain.data.sources import check_source
from posttrain.errors import ConfigError, DataError
from posttrain.files import digest_file, digest_json
from posttrain.models.prefix_templates import find_template
from posttrain.runtime import find_package_versions


@dataclass(frozen=True)
class MadeModel:
    """The model of a finished stage."""

    path: Path
    digest: str
    """Of the stage that made it."""
    tokenizer: str | None = None
    """Where its tokenizer is, where it is not the recipe's."""


@dataclass
class Progress:
    """What the stages so far have made, for those that follow."""

    recipe: Recipe
    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    """Stage -> file of rows that it has made."""
    models: dict[str, MadeModel] = field(default_factory=dict)
    """Stage -> its model; in order."""
    pending: list[str] = field(default_factory=list)
    """Stages with a model or file that have not been run; no later stage can take up from them."""
    evaluations: dict[str, tuple[Path, str]] = field(default_factory=dict)
    """Evaluate stage -> its folder, its digest."""

    @cached_property
    def model_basis(self) -> dict[str, Any]:
        """What the recipe's own model is: settings, and the bytes of local files."""
        basis = self.recipe.model.model_dump(mode="json")
        for key in ("path", "tokenizer"):
            basis[key] = digest_place(basis[key])
        if given := self.recipe.model.chat_template:
            basis["chat_template"] = digest_place(str(find_template(given)))
        return basis

    def model_for(self, stage: Stage) -> ModelConfig:
        """Find the model a stage starts from, with the tokenizer that belongs to it.

        The tokenizer and template stay those of the recipe's model through all stages, unless a
        stage has made another tokenizer.

        Raises:
            ConfigError: The stage that makes it has not been run.
        """
        model = self.recipe.model
        parent = self.parent_of(stage)
        if parent is None:
            return model
        made = self.made_by(parent, stage)
        tokenizer = made.tokenizer or model.tokenizer or model.path
        return model.model_copy(update={"path": str(made.path), "tokenizer": tokenizer})

    def made_by(self, name: str, stage: Stage) -> MadeModel:
        """Return the model of an earlier stage.

        Raises:
            ConfigError: That stage has not been run.
        """
        handed_over = self.folder / name / "verl" / "next.txt"
        if name not in self.models and handed_over.is_file():
            raise ConfigError(
                f"stage `{stage.name}` needs the model of `{name}`, which verl makes",
                hint=f"what to do is in {handed_over}",
            )
        if name in self.pending or name not in self.models:
            raise ConfigError(
                f"stage `{stage.name}` needs the model of `{name}`, which has not been made",
                hint="run `posttrain train` or `posttrain run` with this recipe first",
            )
        return self.models[name]

    def parent_of(self, stage: Stage) -> str | None:
        """Find the stage whose model a stage takes up; None for the recipe's own model."""
        wanted = named_parent(stage)
        if wanted == "base":
            return None
        kinds = {s.name: s.stage for s in self.recipe.stages}
        earlier = [
            s.name
            for s in self.recipe.stages
            if (s.name in self.models or s.name in self.pending)
            and kinds[s.name] in (("mlm",) if stage.stage == "mlm" else CHAIN_STAGES)
            and s.name != stage.name
        ]
        return wanted or (earlier[-1] if earlier else None)

    def needs_pending(self, stage: Stage) -> str | None:
        """Name a stage that has not been run and whose model or file this one needs."""
        sources = (source.from_stage for source in stage_sources(stage))
        needed = (self.parent_of(stage), *sources, *_helpers(stage))
        return next((name for name in needed if name and name in self.pending), None)


def _helpers(stage: Stage) -> Iterator[str]:
    """Yield the stages that a stage needs besides its parent and its files."""
    rewards = getattr(stage, "rewards", None)
    if rewards and rewards.model_from:
        yield rewards.model_from


def digest_place(place: str | None) -> Any:
    """Digest what a name stands for: the files of a local folder or file, else the name."""
    if not place or not Path(place).exists():  # a built-in name or a hub id
        return place
    path = Path(place)
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {f.name: digest_file(f) for f in files if f.is_file()}


def settle_sources(stage: Stage, progress: Progress) -> Stage:
    """Replace every ``from_stage`` by the file that the stage has made.

    Where training rows are to be searched for evaluation problems and the recipe does not say
    which, the sets of its own evaluate stages are named.

    Raises:
        ConfigError: That stage has not been run.
    """

    def settle(source: SourceConfig) -> SourceConfig:
        if source.from_stage is None:
            return source
        path = progress.files.get(source.from_stage)
        if path is None:
            raise ConfigError(
                f"stage `{stage.name}` needs the rows of `{source.from_stage}`, "
                "which has not been run",
                hint="run `posttrain run` with this recipe first",
            )
        return source.model_copy(update={"path": path, "from_stage": None})

    settled = replace_sources(stage, settle)
    data = getattr(settled, "data", None)
    if not isinstance(data, DataConfig) or not data.contamination or data.contamination.against:
        return settled
    against = tuple(_evaluation_sets(progress))
    contamination = data.contamination.model_copy(update={"against": against})
    data = data.model_copy(update={"contamination": contamination})
    return settled.model_copy(update={"data": data})


def _evaluation_sets(progress: Progress) -> Iterator[SourceConfig]:
    """Yield the problems of the recipe's evaluate stages: each set once, as far as it is used."""
    found: dict[str, SourceConfig] = {}
    for stage in progress.recipe.stages:
        measured = getattr(stage, "evaluation", None) or stage
        for task in getattr(measured, "tasks", ()):
            source = getattr(task, "data", None)
            if not isinstance(source, SourceConfig) or isinstance(task, ItemsTask):
                continue
            path = progress.files.get(source.from_stage) if source.from_stage else source.path
            source = source.model_copy(update={"path": path, "from_stage": None})
            if path is None or not _is_there(source):
                continue
            # The first rows of a set are among its rows: of several limits the widest is enough.
            key = source.model_copy(update={"limit": None}).model_dump_json()
            if key not in found or _reach(source) > _reach(found[key]):
                found[key] = source
    yield from found.values()


def _is_there(source: SourceConfig) -> bool:
    """Whether a source has files. Where it has none, its own stage tells why."""
    try:
        return bool(check_source(source))
    except DataError:
        return False


def _reach(source: SourceConfig) -> float:
    return math.inf if source.limit is None else source.limit


# How often a run speaks and saves changes no weight, and a run that is resumed with another rhythm
# is the same run.
_WITHOUT_EFFECT = {
    "log_every_steps",
    "save_every_steps",
    "save_every_minutes",
    "keep_last",
    "keep_best",
    *GUARDS_WITHOUT_EFFECT,
}


def stage_digest(stage: Stage, progress: Progress) -> str:
    """Digest of everything a stage's result depends on: contents of files, not their places.

    Args:
        stage: With settled sources.
        progress: What came before.

    Raises:
        DataError: A source file does not exist.
    """
    stage = _without_reports(stage)
    # The contents of sources are digested instead of their places.
    settled = replace_sources(stage, _without_place)
    settings = settled.model_dump(mode="json", exclude=_find_effectless(stage))
    if isinstance(stage, EvaluateStage):  # graded otherwise, they are the same answers
        settings["tasks"] = [_without(task, GRADING) for task in settings["tasks"]]
    basis: dict[str, Any] = {"version": __version__, "stage": settings}
    if stage.stage == "sample-data":
        return digest_json(basis)
    recipe = progress.recipe
    basis["files"] = [
        digest for source in stage_sources(stage) for digest in _digest_source(source)
    ]
    basis["model"] = progress.model_basis
    parent = progress.parent_of(stage)
    basis["from"] = progress.made_by(parent, stage).digest if parent else "base"
    basis["compute"] = recipe.compute.model_dump(mode="json")
    packages = find_package_versions()
    basis["packages"] = {n: packages.get(n) for n in ("torch", "transformers", "peft")}
    if stage.stage != "evaluate":  # which takes the most likely token, always
        basis["seed"] = recipe.seed
    basis["helpers"] = [progress.made_by(name, stage).digest for name in _helpers(stage)]
    if (rewards := getattr(stage, "rewards", None)) and rewards.model:
        basis["helpers"].append(digest_place(rewards.model))
    if isinstance(stage, TrainingStage):
        tuned = recipe.tuned_for(stage).model_dump(mode="json")
        parts = ("train_only", "freeze") if tuned["tuning"] == "full" else ("lora",)
        basis["tuning"] = {name: tuned[name] for name in ("tuning", *parts)}
    if tasks := getattr(stage, "tasks_folder", None):
        basis["tasks"] = {str(f): digest_file(f) for f in sorted(tasks.rglob("*")) if f.is_file()}
    if compared := getattr(stage, "compare_to", None):
        basis["compared"] = progress.evaluations.get(compared, ("", ""))[1]
    return digest_json(basis)


def _without(settings: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _find_effectless(stage: Stage) -> set[str]:
    """Settings without effect; where validation decides, not those of when and what it measures."""
    if isinstance(stage, TrainingStage) and _is_judged(stage):
        return _WITHOUT_EFFECT - {"save_every_steps", "keep_best"}
    return _WITHOUT_EFFECT


def _is_judged(stage: TrainingStage) -> bool:
    """Whether what is measured in training decides about the model that a stage leaves."""
    return bool(stage.early_stopping) or stage.keeps_best


def _without_reports(stage: Stage) -> Stage:
    """Drop from a stage's data what changes no example: a search that only reports, and speed.

    An evaluation stage that is added to a recipe must not have its models trained again.
    """
    if isinstance(stage, TrainingStage) and not _is_judged(stage):
        stage = stage.model_copy(update={"evaluation": None})
    data = getattr(stage, "data", None)
    if not isinstance(data, DataConfig):
        return stage
    update: dict[str, Any] = {"workers": "auto"}
    if data.contamination and data.contamination.action == "report":
        update["contamination"] = None
    return stage.model_copy(update={"data": data.model_copy(update=update)})


def _without_place(source: SourceConfig) -> SourceConfig:
    update: dict[str, Any] = {"path": None, "from_stage": None}
    if isinstance(source, TaskData):
        update |= {"get": None, "split": None}
    return source.model_copy(update=update)


def _digest_source(source: SourceConfig) -> Iterator[tuple[Any, ...]]:
    """Name and sha256 of each file, and what a registry says of it.

    The name is part of the problems' ids, and its ending of how it is read.
    """
    for file in check_source(source):
        assert file.path is not None
        said = (file.format, file.columns, file.turns, file.limit) if source.dataset else ()
        yield file.path.name, digest_file(file.path), *said


def check_sources(stage: Stage) -> None:
    """Look for every file that a stage will read, before hours are spent on those before it.

    Raises:
        DataError: A file does not exist or may not be read.
    """
    for source in stage_sources(stage):
        check_source(source)
