"""Stage ``evaluate``: a model on every task, and against an earlier evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.evaluation import GRADING, EvaluateStage, ItemsTask
from posttrain.files import write_json
from posttrain.logs import say
from posttrain.runs.kinds.kind import Kind, StageContext
from posttrain.runs.progress import Progress


def _check(stage: EvaluateStage, progress: Progress) -> None:
    from posttrain.evaluation.tasks import check_tasks
    from posttrain.models.load import load_base_config, load_tokenizer
    from posttrain.models.vocabulary import check_vocabulary

    model = progress.model_for(stage)
    tokenizer = load_tokenizer(model)
    check_vocabulary(tokenizer, load_base_config(model), model.path)
    check_tasks(stage.tasks, tokenizer, stage.generator)


def _run(stage: EvaluateStage, context: StageContext) -> dict[str, Any]:
    """Measure a model on every task of the stage, and compare with an earlier stage."""
    from posttrain.evaluation.comparisons import compare_records
    from posttrain.evaluation.export import write_results
    from posttrain.evaluation.results import load_records
    from posttrain.evaluation.tasks import check_answered, describe_score, run_tasks
    from posttrain.models.load import load_tokenizer

    progress, folder = context.progress, context.folder
    config = progress.model_for(stage)
    tokenizer = load_tokenizer(config)
    parent = progress.parent_of(stage)
    digest = progress.models[parent].digest if parent else config.path
    write_json(folder / "lineage.json", {"model": config.path, "model_digest": digest})
    measured = run_tasks(
        stage.tasks,
        config,
        tokenizer,
        folder,
        generator=stage.generator,
        compute=context.compute,
        identity=[context.digest, context.compute.dtype],
    )
    scores, unanswered = {}, 0
    for task, results in measured:
        check_answered(results, context.command)
        if stage.compare_to:
            place = folder / task.label
            other = progress.evaluations[stage.compare_to][0] / task.label
            comparison = compare_records(load_records(place), load_records(other))
            results["comparison"] = {"other": stage.compare_to, **comparison}
            write_results(place, results)
        say(f"{stage.name}: {task.label}: {describe_score(results)}")
        scores[task.label] = results["value"]
        if "generator" in results:  # this model itself would fail at the same prompts again
            unanswered += results["errors"].get("unanswered", 0)
    return {"summary": scores, "unanswered": unanswered}


def _outputs(stage: EvaluateStage, folder: Path) -> list[Path]:
    from posttrain.evaluation.items import asks_judge

    names = ("records.jsonl", "results.json")
    needed = [folder / task.label / name for task in stage.tasks for name in names]
    # A stage that was finished without the judge's key is run again once there is one.
    judged = [t for t in stage.tasks if isinstance(t, ItemsTask) and asks_judge(t)]
    return needed + [folder / task.label / "inceptbench.jsonl" for task in judged]


def _goes_on(stage: EvaluateStage, done: dict[str, Any]) -> str:
    if unanswered := done.get("unanswered"):
        return f"{unanswered:,} answers are asked for again"
    ways = [
        [{name: task.get(name) for name in GRADING} for task in tasks]
        for tasks in (done["settings"]["tasks"], stage.model_dump(mode="json")["tasks"])
    ]
    return "" if ways[0] == ways[1] else "settings of grading have changed"


EVALUATE = Kind(_run, _outputs, check=_check, goes_on=_goes_on, makes="evaluation")
