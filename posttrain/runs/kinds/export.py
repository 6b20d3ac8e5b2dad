"""Stages ``merge`` and ``quantize``: a model that is handed over, for later stages to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.export import MergeStage, QuantizeStage
from posttrain.logs import show
from posttrain.runs.kinds.kind import Kind, StageContext
from posttrain.runs.progress import Progress


def _check_merge(stage: MergeStage, progress: Progress) -> None:
    from posttrain.export.merge import check_mergeable

    check_mergeable(progress.model_for(stage))


def _merge(stage: MergeStage, context: StageContext) -> dict[str, Any]:
    from posttrain.export.merge import merge_adapter
    from posttrain.runs.export import show_handover

    source, out = context.progress.model_for(stage), context.folder / "final"
    result = merge_adapter(source, out, stage, device=context.compute.device)
    show_handover(out, context.progress.recipe.name)
    return {
        "summary": {
            "dtype": result["dtype"],
            "weight_bytes": result["weight_bytes"],
            "logit_difference": result["agreement"]["relative_difference"],
            "top1_agreement": result["agreement"]["top1_agreement"],
        },
        "model": "final",
    }


def _check_quantize(stage: QuantizeStage, progress: Progress) -> None:
    from posttrain.export.quantize import check_method

    check_method(stage)
    progress.model_for(stage)


def _quantize(stage: QuantizeStage, context: StageContext) -> dict[str, Any]:
    from posttrain.export.quantize import quantize_model
    from posttrain.runs.export import render_quantization

    source, out = context.progress.model_for(stage), context.folder / "final"
    result = quantize_model(source, out, stage, device=context.compute.device)
    show(render_quantization(result))
    return {
        "summary": {
            "method": result["method"],
            "weight_bytes_before": result["weight_bytes_before"],
            "weight_bytes": result["weight_bytes"],
            "loss_increase": result["loss_increase"],
            "top1_agreement": result["agreement"]["top1_agreement"],
        },
        "model": "final",
    }


def _outputs(stage: MergeStage | QuantizeStage, folder: Path) -> list[Path]:
    return [folder / "final" / "MANIFEST.json"]


MERGE = Kind(_merge, _outputs, check=_check_merge, makes="model")
QUANTIZE = Kind(_quantize, _outputs, check=_check_quantize, makes="model")
