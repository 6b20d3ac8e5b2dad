"""Stage ``harness``: a model on tasks of lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.harness import HarnessStage
from posttrain.logs import show
from posttrain.runs.harness import render_scores, run_harness
from posttrain.runs.kinds.kind import Kind, StageContext
from posttrain.runs.progress import Progress

_FILE = "harness.json"


def _check(stage: HarnessStage, progress: Progress) -> None:
    from posttrain.evaluation.harness import check_tasks
    from posttrain.models.load import load_model_config, load_tokenizer

    check_tasks(stage)
    model = progress.model_for(stage)
    load_tokenizer(model)
    if not (Path(model.path) / "adapter_config.json").is_file():
        load_model_config(model)


def _run(stage: HarnessStage, context: StageContext) -> dict[str, Any]:
    model = context.progress.model_for(stage)
    whole = run_harness(stage, model, context.folder, context.compute)
    show(render_scores(whole))
    return {"summary": {name: task["value"] for name, task in whole["tasks"].items()}}


HARNESS = Kind(
    _run, outputs=lambda stage, folder: [folder / _FILE], check=_check, makes="evaluation"
)
