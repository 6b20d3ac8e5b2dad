"""How `posttrain validate` looks at data files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from posttrain.config.data import ContaminationConfig, DedupConfig, SourceConfig

RowKind = Literal["auto", "chat", "preference", "prompt", "text"]


class ValidateConfig(SourceConfig):
    """Settings of a validation without a recipe; those of a source, and what is asked of it."""

    kind: RowKind = "auto"
    """What the rows shall be; `auto` takes what their format says."""
    dedup: DedupConfig | None = None
    """Look for rows that were there before; not where absent."""
    contamination: ContaminationConfig | None = None
    """Look for evaluation problems among the rows; not where absent."""
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Fail where a larger share of the rows is unusable."""
