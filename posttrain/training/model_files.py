"""How the trainer writes a model's files, and reads those of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.integrations.deepspeed import deepspeed_load_checkpoint

from posttrain.checkpoints import check_intact, checkpoint_name, save_errors
from posttrain.errors import CheckpointError
from posttrain.models.trained_template import write_trained_template
from posttrain.training.saving import Saver


class ModelFiles(Trainer):
    """The part of the trainer that deals with weights on the disk."""

    trained_template: str | None = None
    """Digest of the chat template that the model learns; None where that is not known."""
    apart: tuple[str, ...] = ()
    """Starts of the names of weights that are kept in files of their own."""
    saver: Saver

    def take_best(self) -> int | None:
        """Take up the weights of the best checkpoint.

        Returns:
            Its step; None where nothing was measured, and the last weights stay.

        Raises:
            CheckpointError: It is damaged.
        """
        best = self.saver.find_best()
        if best is not None and best != self.state.global_step:
            folder = self.saver.folder / checkpoint_name(best)
            check_intact(folder, hint="set final_model: last to leave the model of the last step")
            if self.is_deepspeed_enabled:
                whole = not hasattr(self.model, "peft_config")
                deepspeed_load_checkpoint(self.deepspeed, str(folder), load_module_strict=whole)
            else:
                self._load_from_checkpoint(str(folder))
        return best

    def write_model(self, folder: Path) -> None:
        """Write the weights with tokenizer and template into a folder that is being built.

        Raises:
            PosttrainError: They cannot be written.
        """
        with save_errors(folder.parent):
            self.save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            write_trained_template(folder, self.trained_template)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint without all weights; transformers would only warn, of tied ones too.

        Raises:
            CheckpointError: Names what is missing or unknown.
        """
        tied = self.model.all_tied_weights_keys
        missing = [
            name
            for name in load_result.missing_keys
            if name not in tied and not (self.apart and name.startswith(self.apart))
        ]
        if wrong := [*missing, *load_result.unexpected_keys]:
            raise CheckpointError(
                f"{self.saver.folder}: {wrong[0]} and {len(wrong) - 1} other weights of the "
                "checkpoint are missing, or unknown to the model",
                hint="delete the stage's folder to train it from its beginning",
            )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if state_dict is not None:
            # Gathered from several processes, tied weights are copies that would be written twice.
            tied = getattr(self.model, "all_tied_weights_keys", {})
            state_dict = {k: v for k, v in state_dict.items() if k not in tied}
        super()._save(output_dir, state_dict)
        # A pickle of the arguments: needs arbitrary code to read, and config.json says it all.
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)
