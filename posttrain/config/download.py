"""What `posttrain download` fetches, and from where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from posttrain.config.base import Config, ConfigPath


class DownloadConfig(Config):
    """A model or data set of a hub, to be copied into a folder."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$")]
    """As on the hub, such as `Qwen/Qwen3-0.6B`."""
    out: ConfigPath
    """Folder to make; it appears when all is there and checked."""
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """`huggingface` heeds `$HF_ENDPOINT` and `$HF_TOKEN`; `modelscope` needs the extra of that
    name."""
    kind: Literal["model", "dataset"] = "model"
    """What it is."""
    revision: str | None = None
    """Branch, tag or commit; the newest where absent."""
    files: tuple[str, ...] = ()
    """Patterns of wanted files, such as `['*.json', '*.gguf']`; all useful ones where absent."""
    pickles: bool = False
    """Also weights as pickles (`.bin`, `.pt`), which can run code when they are loaded."""
