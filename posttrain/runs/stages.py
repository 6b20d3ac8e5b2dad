"""What each kind of stage depends on, and how it is run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain import __version__
from posttrain.config.data import DataConfig, SampleDataStage, SourceConfig
from posttrain.config.evaluation import EvaluateStage
from posttrain.config.recipe import Recipe, Stage, stage_sources
from posttrain.config.train import SftStage
from posttrain.data.readers import check_file
from posttrain.errors import ConfigError
from posttrain.files import digest_file, digest_json, load_json, write_json, write_jsonl
from posttrain.logs import say
from posttrain.runtime import Compute, describe_environment, find_package_versions
from posttrain.samples import GENERATORS


@dataclass
class Progress:
    """What the stages so far have made, for those that follow."""

    recipe: Recipe
    folder: Path
    sample_files: dict[str, Path] = field(default_factory=dict)
    models: dict[str, tuple[Path, str]] = field(default_factory=dict)
    """Training stage -> folder of its model, digest of the stage; in order."""
    pending: list[str] = field(default_factory=list)
    """Training stages that have not been run; a later stage cannot take up from them."""
    evaluations: dict[str, tuple[Path, str]] = field(default_factory=dict)
    """Evaluate stage -> its folder, its digest."""

    @cached_property
    def model_basis(self) -> dict[str, Any]:
        """What the recipe's own model is: settings, and the bytes of local files."""
        model = self.recipe.model
        basis = model.model_dump(mode="json")
        for key in ("path", "tokenizer", "chat_template"):
            place = Path(basis[key] or "")
            if basis[key] and place.exists():  # neither a built-in name nor a hub id
                files = [place] if place.is_file() else sorted(place.iterdir())
                basis[key] = {f.name: digest_file(f) for f in files if f.is_file()}
        return basis

    def model_for(self, stage: Stage) -> tuple[str, str]:
        """Find the model a stage starts from.

        Returns:
            Model name or folder, and the digest of the stage that made it (or the name itself).

        Raises:
            ConfigError: That stage has not been run.
        """
        wanted = self.parent_of(stage)
        if wanted is None:
            return self.recipe.model.path, self.recipe.model.path
        if wanted in self.pending:
            raise ConfigError(
                f"stage `{stage.name}` needs the model of `{wanted}`, which has not been trained",
                hint="run `posttrain train` or `posttrain run` with this recipe first",
            )
        path, digest = self.models[wanted]
        return str(path), digest

    def parent_of(self, stage: Stage) -> str | None:
        """Find the training stage whose model a stage takes up; None for the recipe's own model."""
        wanted = None
        if isinstance(stage, SftStage):
            wanted = stage.start_from
        elif isinstance(stage, EvaluateStage):
            wanted = stage.model_from
        if wanted == "base":
            return None
        earlier = [*self.models, *self.pending]
        order = [s.name for s in self.recipe.stages if s.name in earlier]
        return wanted or (order[-1] if order else None)


def settle_sources(stage: Stage, progress: Progress) -> Stage:
    """Replace every ``from_stage`` by the file that the stage has made."""

    def settle(source: SourceConfig) -> SourceConfig:
        if source.from_stage is None:
            return source
        path = progress.sample_files[source.from_stage]
        return source.model_copy(update={"path": path, "from_stage": None})

    if isinstance(stage, SftStage):
        return stage.model_copy(update={"data": _settle_data(stage.data, settle)})
    if isinstance(stage, EvaluateStage):
        tasks = tuple(t.model_copy(update={"data": settle(t.data)}) for t in stage.tasks)
        return stage.model_copy(update={"tasks": tasks})
    return stage


def _settle_data(data: DataConfig, settle: Any) -> DataConfig:
    update: dict[str, Any] = {"sources": tuple(settle(source) for source in data.sources)}
    if data.contamination:
        against = tuple(settle(source) for source in data.contamination.against)
        update["contamination"] = data.contamination.model_copy(update={"against": against})
    return data.model_copy(update=update)


def stage_digest(stage: Stage, progress: Progress) -> str:
    """Digest of everything a stage's result depends on: contents of files, not their places.

    Args:
        stage: With settled sources.
        progress: What came before.

    Raises:
        DataError: A source file does not exist.
    """
    settings = _without_places(stage.model_dump(mode="json", exclude=_WITHOUT_EFFECT))
    basis: dict[str, Any] = {"version": __version__, "stage": settings}
    if not isinstance(stage, SampleDataStage):
        recipe = progress.recipe
        basis["files"] = [_digest_source(source) for source in stage_sources(stage)]
        basis["model"] = progress.model_basis
        _, parent = progress.model_for(stage)
        basis["from"] = parent if progress.parent_of(stage) else "base"
        basis["compute"] = recipe.compute.model_dump(mode="json")
        packages = find_package_versions()
        basis["packages"] = {n: packages.get(n) for n in ("torch", "transformers", "peft")}
        if isinstance(stage, SftStage):
            basis["seed"] = recipe.seed
            basis["tuning"] = recipe.tuning
            basis["lora"] = recipe.lora.model_dump(mode="json") if recipe.tuning == "lora" else None
        if isinstance(stage, EvaluateStage) and stage.compare_to:
            basis["compared"] = progress.evaluations.get(stage.compare_to, ("", ""))[1]
    return digest_json(basis)


# Of training stages: how often a run speaks and saves changes no weight, and a run that is resumed
# with another rhythm is the same run.
_WITHOUT_EFFECT = {"log_every_steps", "save_every_steps", "keep_last"}


def _without_places(value: Any) -> Any:
    """Drop the paths of sources, wherever they are; their contents are digested instead."""
    if isinstance(value, dict):
        return {k: _without_places(v) for k, v in value.items() if k not in ("path", "from_stage")}
    return [_without_places(item) for item in value] if isinstance(value, list) else value


def _digest_source(source: SourceConfig) -> tuple[str, str]:
    """Name and sha256; the name is part of the problems' ids, and its ending of how it is read."""
    assert source.path is not None
    return source.path.name, digest_file(check_file(source.path))


def sample_file(stage: SampleDataStage, folder: Path) -> Path:
    """Where a sample-data stage writes."""
    return stage.out or folder / f"{stage.kind}.jsonl"


def check_sources(stage: Stage) -> None:
    """Look for every file that a stage will read, before hours are spent on those before it.

    Raises:
        DataError: A file does not exist or may not be read.
    """
    for source in stage_sources(stage):
        if source.path is not None:
            check_file(source.path)


def run_sample_data(stage: SampleDataStage, folder: Path) -> dict[str, Any]:
    """Make sample data; the summary names file and rows."""
    path = sample_file(stage, folder)
    try:
        rows = list(GENERATORS[stage.kind](stage.num, stage.seed))
    except ValueError as error:
        raise ConfigError(
            f"sample-data {stage.kind} num={stage.num}: {error}", hint="ask for fewer rows"
        ) from error
    write_jsonl(path, rows)
    say(f"made {len(rows):,} rows of {stage.kind} in {path}")
    return {"summary": {"rows": len(rows), "file": str(path)}}


def find_missing_output(stage: Stage, folder: Path) -> Path | None:
    """Find a file that a finished stage has left and that is no longer there."""
    if isinstance(stage, SampleDataStage):
        needed = [sample_file(stage, folder)]
    elif isinstance(stage, SftStage):
        needed = [folder / "final" / "MANIFEST.json"]
    else:
        names = ("records.jsonl", "results.json")
        needed = [folder / task.label / name for task in stage.tasks for name in names]
    return next((path for path in needed if not path.is_file()), None)


def check_stage(stage: SftStage | EvaluateStage, progress: Progress) -> None:
    """Look at the model, tokenizer and data of a stage before anything of it is begun.

    An older result is moved aside when a stage begins; a mistake must not come after that.

    Raises:
        CheckpointError: Model or tokenizer is missing or unreadable.
        DataError: The data cannot be used.
        ConfigError: The data does not fit the settings.
    """
    from posttrain.data.prepare import prepare_data
    from posttrain.evaluation.math import encode_problems, load_problems
    from posttrain.models.load import load_model_config, load_tokenizer
    from posttrain.training.batches import build_schedule

    name, _ = progress.model_for(stage)
    model = progress.recipe.model
    tokenizer = load_tokenizer(model)
    if isinstance(stage, SftStage):
        data = prepare_data(stage.data, tokenizer)
        if data.reused:
            say(f"data: taken from the cache ({data.folder})")
        for part in (data.train, data.validation):
            if len(part):
                build_schedule(part, stage, seed=progress.recipe.seed)
    else:
        for task in stage.tasks:
            encode_problems(load_problems(task), tokenizer)
    if not (Path(name) / "adapter_config.json").is_file():
        load_model_config(model.model_copy(update={"path": name}))


def run_sft(
    stage: SftStage, folder: Path, progress: Progress, compute: Compute, command: str
) -> dict[str, Any]:
    """Train, and write the lineage of the model."""
    from posttrain.training.sft import train_sft
    from posttrain.training.stage import TrainingJob

    start, parent = progress.model_for(stage)
    model = progress.recipe.model
    # The tokenizer and template stay those of the recipe's model through all stages.
    update = {"path": start, "tokenizer": model.tokenizer or model.path}
    recipe = progress.recipe.model_copy(update={"model": model.model_copy(update=update)})
    write_json(folder / "environment.json", describe_environment(compute))
    job = TrainingJob(recipe, stage, folder, compute, command)
    summary = asdict(train_sft(job))
    report = load_json(folder / "data" / "report.json")
    write_json(
        folder / "lineage.json",
        {
            "stage": stage.model_dump(mode="json"),
            "tuning": recipe.tuning,
            "parent_model": start,
            "parent_digest": parent,
            "data_digest": report["digest"],
            "data_files": [source["path"] for source in report["sources"]],
            "seed": recipe.seed,
            "weights": load_json(job.final / "MANIFEST.json")["files"],
            "environment": describe_environment(compute),
        },
    )
    return {"summary": summary, "model": str(job.final)}


def run_evaluate(
    stage: EvaluateStage, folder: Path, progress: Progress, compute: Compute
) -> dict[str, Any]:
    """Measure a model on every task of the stage, and compare with an earlier stage."""
    from posttrain.evaluation.math import evaluate_math
    from posttrain.evaluation.results import compare_records, load_records
    from posttrain.models.load import load_model, load_tokenizer

    name, parent = progress.model_for(stage)
    config = progress.recipe.model.model_copy(update={"path": name})
    tokens = progress.recipe.model
    tokenizer = load_tokenizer(
        config.model_copy(update={"tokenizer": tokens.tokenizer or tokens.path})
    )
    dtype = "bfloat16" if compute.precision == "bf16" else "float32"
    model = load_model(config, attention="sdpa", dtype=dtype).to(compute.device)
    write_json(folder / "lineage.json", {"model": name, "model_digest": parent})
    scores = {}
    for task in stage.tasks:
        place = folder / task.label
        results = evaluate_math(task, model, tokenizer, place, model_name=name)
        if stage.compare_to:
            other = progress.evaluations[stage.compare_to][0] / task.label
            comparison = compare_records(load_records(place), load_records(other))
            results["comparison"] = {"other": stage.compare_to, **comparison}
            write_json(place / "results.json", results)
        low, high = results["interval"]
        say(
            f"{stage.name}: {task.label}: {results['accuracy']:.1%} right "
            f"({results['correct']} of {results['problems']}, 95 % interval "
            f"{low:.1%} to {high:.1%})"
        )
        scores[task.label] = results["accuracy"]
    return {"summary": scores}
