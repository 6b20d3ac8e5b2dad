"""When a run writes a checkpoint, and what becomes of it when the disk refuses."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.checkpoints import (
    FoundCheckpoint,
    Ranking,
    checkpoint_name,
    list_checkpoints,
    note_validation,
    prune_checkpoints,
    save_errors,
    write_checkpoint,
)
from posttrain.config.train import TrainingStage
from posttrain.errors import PosttrainError
from posttrain.logs import say
from posttrain.runtime import is_main_process, world_size
from posttrain.training.processes import shared_folder
from posttrain.uploads import Uploader

_STOPPED_SECONDS = 20.0
_FINISHED_SECONDS = 900.0


class Saver:
    """Writes the checkpoints of a stage and keeps those that its settings ask for.

    Args:
        folder: Of the checkpoints.
        stage: How often to save and what to keep.
        details: Stored in every manifest: what tells this run from others, and how it computes.
        found: Where the run goes on.
        uploader: Copies checkpoints elsewhere, where that is asked for.
    """

    def __init__(
        self,
        folder: Path,
        stage: TrainingStage,
        details: dict[str, Any] | None = None,
        found: FoundCheckpoint | None = None,
        uploader: Uploader | None = None,
    ) -> None:
        self.folder = folder
        self.stage = stage
        self.details = details or {}
        self.saved_step = found.step if found and found.path else -1
        """Of the newest checkpoint on the disk; -1 where there is none."""
        validation = found.manifest.get("validation") if found else None
        self.validated: tuple[int, dict[str, float]] | None = (
            (self.saved_step, validation) if validation else None
        )
        """Newest step whose validation is known, with its metrics."""
        self._tried = time.monotonic()
        self._uploader = uploader
        if self._uploader and found and found.path and not self._uploader.has(found.path):
            self._uploader.offer(found.path)

    @property
    def is_due(self) -> bool:
        """Whether ``save_every_minutes`` have passed since the last checkpoint."""
        minutes = self.stage.save_every_minutes
        return minutes is not None and time.monotonic() - self._tried >= 60 * minutes

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write a checkpoint, all or nothing.

        Where that fails, one line says so and the run goes on: the next one may find room. Of
        several processes the others could not know, so the run ends.

        Args:
            step: Optimizer steps done.
            write: Fills the folder it is given.

        Raises:
            PosttrainError: It cannot be written, and there are several processes.
        """
        if self.saved_step == step:  # transformers asks once more when the last step is done
            return
        self._tried = time.monotonic()
        details = dict(self.details)
        if self.validated and self.validated[0] == step:
            details["validation"] = self.validated[1]
        publish = write_checkpoint(self.folder, step, details)
        try:
            # Around the publishing too: its manifest is written when the block ends.
            with save_errors(self.folder), shared_folder(publish) as folder:
                write(folder)
        except (PosttrainError, OSError) as error:
            if world_size() > 1:
                raise
            say(f"warning: step {step}: no checkpoint: {Exception.__str__(error)}; {self._kept}")
            return
        self.saved_step = step
        if is_main_process():
            self._prune()
            if self._uploader:
                self._uploader.offer(self.folder / checkpoint_name(step))

    def finish(self, final: Path | None) -> None:
        """Wait for what is still to be copied elsewhere, for a bounded time.

        Args:
            final: The finished model; None where the run was stopped.
        """
        if not self._uploader:
            return
        if final is None:  # what stops a run seldom waits long
            self._uploader.close(_STOPPED_SECONDS)
            return
        for _, path in list_checkpoints(self.folder):
            if not self._uploader.has(path):
                self._uploader.offer(path, besides=True)
        self._uploader.offer(final, besides=True)
        self._uploader.close(_FINISHED_SECONDS)
        if self.saved_step >= 0:
            self._prune()  # what was held is no longer

    @property
    def _kept(self) -> str:
        if self.saved_step < 0:
            return "there is none so far; the run goes on"
        return f"that of step {self.saved_step} is kept; the run goes on"

    def note(self, step: int, values: dict[str, float]) -> None:
        """Remember a step's validation, with its checkpoint where that is written already."""
        self.validated = (step, values)
        if self.saved_step == step and is_main_process():
            try:
                note_validation(self.folder / checkpoint_name(step), values)
            except PosttrainError as error:
                say(f"warning: {Exception.__str__(error)}; this step cannot become the best")
            self._prune()
            if self._uploader:
                self._uploader.offer(self.folder / checkpoint_name(step))

    def find_best(self) -> int | None:
        """Step of the best checkpoint; None where nothing was measured."""
        best = build_ranking(self.stage).choose(list_checkpoints(self.folder))
        return best[0] if best else None

    def _prune(self) -> None:
        try:
            damage = prune_checkpoints(
                self.folder,
                step=self.saved_step,
                keep_last=self.stage.keep_last,
                ranking=build_ranking(self.stage),
                held=self._uploader.held if self._uploader else (),
            )
        except OSError as error:
            damage = f"the others cannot be looked through: {error}"
        if damage:
            say(f"warning: {checkpoint_name(self.saved_step)}: {damage}; older ones are all kept")


def build_ranking(stage: TrainingStage) -> Ranking:
    """By what a stage's checkpoints are compared."""
    best = stage.keep_best
    return Ranking(stage.ranked_by, stage.is_higher_better(stage.ranked_by), best.count)
