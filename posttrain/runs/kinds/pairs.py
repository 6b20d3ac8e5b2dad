"""Stage ``pairs``: a model's own answers as preference pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.pairs import PairsStage
from posttrain.runs.kinds.kind import Kind, StageContext
from posttrain.runs.kinds.training import settle_reward_model
from posttrain.runs.pairs import write_pairs
from posttrain.runs.progress import Progress

_FILE = "pairs.jsonl"


def _check(stage: PairsStage, progress: Progress) -> None:
    from posttrain.data.prepare import prepare_data
    from posttrain.models.load import load_model_config, load_tokenizer
    from posttrain.training.rewards import check_references

    model = progress.model_for(stage)
    check_references(stage.rewards, prepare_data(stage.data, load_tokenizer(model)).train)
    if not (Path(model.path) / "adapter_config.json").is_file():
        load_model_config(model)


def _run(stage: PairsStage, context: StageContext) -> dict[str, Any]:
    progress = context.progress
    settled = settle_reward_model(stage, progress)
    model = progress.model_for(stage)
    report = write_pairs(settled, model, context.folder / _FILE, context.compute)
    return {"summary": report, "file": _FILE}


PAIRS = Kind(_run, outputs=lambda stage, folder: [folder / _FILE], check=_check, makes="file")
