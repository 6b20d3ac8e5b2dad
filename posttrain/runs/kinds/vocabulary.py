"""Stage ``extend-tokenizer``: new tokens; later stages use the model and its new tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.vocabulary import ExtendTokenizerStage
from posttrain.logs import show
from posttrain.runs.kinds.kind import Kind, StageContext
from posttrain.runs.progress import Progress


def _check(stage: ExtendTokenizerStage, progress: Progress) -> None:
    from posttrain.vocabulary.extend import check_model
    from posttrain.vocabulary.texts import read_domain

    check_model(progress.model_for(stage))
    read_domain(stage)


def _run(stage: ExtendTokenizerStage, context: StageContext) -> dict[str, Any]:
    from posttrain.runs.vocabulary import render_vocabulary
    from posttrain.vocabulary.extend import extend_tokenizer

    model = context.progress.model_for(stage)
    report = extend_tokenizer(stage, model, context.folder / "final")
    show(render_vocabulary(report))
    domain = report["domain"]
    summary = {
        "new_tokens": report["new_tokens"],
        "rows": report["rows_after"],
        "tokens_before": domain["tokens_before"],
        "tokens_after": domain["tokens_after"],
    }
    return {"summary": summary, "model": "final", "tokenizer": "final"}


def _outputs(stage: ExtendTokenizerStage, folder: Path) -> list[Path]:
    return [folder / "final" / "MANIFEST.json"]


EXTEND_TOKENIZER = Kind(_run, _outputs, check=_check, makes="model")
