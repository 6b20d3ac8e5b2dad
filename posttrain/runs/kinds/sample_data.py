"""Stage ``sample-data``: rows of our own making."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.data import SampleDataStage
from posttrain.errors import ConfigError
from posttrain.files import write_jsonl
from posttrain.logs import say
from posttrain.runs.kinds.kind import Kind, StageContext
from posttrain.samples import GENERATORS


def sample_file(stage: SampleDataStage, folder: Path) -> Path:
    """Where a sample-data stage writes."""
    return stage.out or folder / f"{stage.kind}.jsonl"


def make_sample_data(stage: SampleDataStage, folder: Path) -> dict[str, Any]:
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
    return {"summary": {"rows": len(rows), "file": str(path)}, "file": str(path)}


def _run(stage: SampleDataStage, context: StageContext) -> dict[str, Any]:
    return make_sample_data(stage, context.folder)


SAMPLE_DATA = Kind(
    _run,
    outputs=lambda stage, folder: [sample_file(stage, folder)],
    makes="file",
    computes=False,
)
