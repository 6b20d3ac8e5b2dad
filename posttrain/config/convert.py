"""How `posttrain convert` rewrites a file of rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from posttrain.config.base import Config, ConfigPath
from posttrain.config.data import FormatName


class ConvertConfig(Config):
    """Settings of a conversion from one format to another."""

    path: ConfigPath
    """JSON, JSONL or CSV file to read."""
    out: ConfigPath
    """JSONL file to write; rows that cannot be used go to a `.rejects.jsonl` beside it."""
    to: Literal["messages", "messages_json", "alpaca", "preference"]
    """Format to write. `messages_json` keeps nested parts as JSON text, as Arrow needs it."""
    format: FormatName = "auto"
    """Shape of the rows that are read; `auto` looks at them and says what it found."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Own column names, as `{name the format expects: name in the file}`."""
    limit: PositiveInt | None = None
    """Use only the first rows."""
