"""Stage ``generate-items``: a model writes multiple-choice items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.items import GenerateItemsStage
from posttrain.data.item_requests import load_requests
from posttrain.runs.items import write_items
from posttrain.runs.kinds.kind import Kind, StageContext
from posttrain.runs.progress import Progress

_FILE = "items.jsonl"


def _check(stage: GenerateItemsStage, progress: Progress) -> None:
    from posttrain.data.templates import ChatRenderer
    from posttrain.models.load import load_model_config, load_tokenizer

    assert stage.requests.path is not None
    list(load_requests(stage.requests.path, limit=stage.requests.limit))
    model = progress.model_for(stage)
    ChatRenderer(load_tokenizer(model))
    if not (Path(model.path) / "adapter_config.json").is_file():
        load_model_config(model)


def _run(stage: GenerateItemsStage, context: StageContext) -> dict[str, Any]:
    model = context.progress.model_for(stage)
    summary = write_items(stage, model, context.folder / _FILE, context.compute)
    return {"summary": summary, "file": _FILE}


GENERATE_ITEMS = Kind(
    _run, outputs=lambda stage, folder: [folder / _FILE], check=_check, makes="file"
)
