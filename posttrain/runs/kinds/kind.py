"""What a kind of stage is to the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.runs.progress import Progress
from posttrain.runtime import Compute


@dataclass(frozen=True)
class StageContext:
    """What a stage is run with."""

    folder: Path
    """The stage's own folder, claimed and empty or holding an unfinished attempt."""
    progress: Progress
    compute: Compute
    command: str
    """What to type to go on after a stop."""
    digest: str
    """Of everything that the stage's result depends on."""


@dataclass(frozen=True)
class Kind:
    """A kind of stage; all functions get it with its file sources settled."""

    run: Callable[[Any, StageContext], dict[str, Any]]
    """Do it. The result becomes part of ``stage.json``: ``summary`` (name -> figure), and what
    later stages take up: ``model`` (a folder, relative to the stage's), ``tokenizer`` (a folder,
    where another one than the recipe's belongs to the model), ``file`` (rows)."""
    outputs: Callable[[Any, Path], list[Path]]
    """Files without which a finished stage does not count; gets the stage's folder."""
    check: Callable[[Any, Progress], None] = lambda stage, progress: None
    """Raise for a mistake in model, tokenizer or data, before anything is begun or moved aside."""
    goes_on: Callable[[Any, dict[str, Any]], str] = lambda stage, done: ""
    """Why a finished stage is gone on with all the same, by its ``stage.json``; empty where not."""
    makes: str = ""
    """``model``, ``file``, ``evaluation`` or nothing that a later stage takes up."""
    computes: bool = True
    """Whether it needs a device; threads and number format are then settled first."""
