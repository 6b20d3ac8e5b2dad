"""How `posttrain convert` rewrites a file of rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from posttrain.config.base import Config, ConfigPath
from posttrain.config.data import FormatName

WrittenFormat = Literal[
    "messages", "messages_json", "alpaca", "sharegpt", "prompt_completion", "prompt",
    "query_response", "question_answer", "input_output", "prompt_response", "dolly",
    "gsm8k", "math", "chatml", "dolci", "xlam",
    "preference", "messages_preference", "sharegpt_preference", "alpaca_preference",
    "stack_exchange", "hh_rlhf",
    "text",
]  # fmt: skip


class ConvertConfig(Config):
    """Settings of a conversion from one format to another."""

    path: ConfigPath
    """File of rows to read: JSON, JSONL, CSV, TSV, Parquet or Arrow."""
    out: ConfigPath
    """File to write, by its ending JSON lines (`.jsonl`), one JSON array (`.json`), `.csv`, `.tsv`
    or `.parquet`; rows that cannot be used go to `OUT.rejects.jsonl` beside it."""
    to: WrittenFormat
    """Format to write. `messages_json` keeps nested parts as JSON text, as Arrow needs it."""
    format: FormatName = "auto"
    """Shape of the rows that are read; `auto` looks at them and says what it found."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Own column names, as `{name the format expects: name in the file}`."""
    limit: PositiveInt | None = None
    """Use only the first rows."""
    lossy: Literal["reject", "count"] = "reject"
    """What becomes of a row with something that `to` has no place for, such as reasoning: a reject
    with that reason; or it is written without, and each loss is counted."""
    overwrite: bool = False
    """Replace the file `out`, and one in the place of its rejects, where they exist; rejects of an
    earlier conversion are replaced anyway."""
