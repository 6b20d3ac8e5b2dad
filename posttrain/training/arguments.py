"""A stage's settings -> transformers' TrainingArguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.train import SftStage
from posttrain.runtime import Compute


def build_arguments(
    stage: SftStage, *, folder: Path, compute: Compute, steps: int, seed: int, validate: bool
) -> Any:
    """Build the arguments of our trainer.

    Args:
        stage: Settings of the stage.
        folder: The stage's folder.
        compute: Device and number format.
        steps: Optimizer steps of the whole stage.
        seed: Of dropout.
        validate: Whether validation loss is measured.

    Returns:
        ``transformers.TrainingArguments``.
    """
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,  # an item is a packed batch already
        gradient_accumulation_steps=stage.accumulate,
        optim="adamw_torch_fused",
        learning_rate=stage.learning_rate,
        lr_scheduler_type=_SCHEDULES[stage.schedule],
        warmup_steps=round(stage.warmup * steps),
        weight_decay=stage.weight_decay,
        adam_beta1=stage.beta1,
        adam_beta2=stage.beta2,
        max_grad_norm=stage.max_grad_norm,
        use_cpu=compute.device == "cpu",
        bf16=compute.precision == "bf16",
        seed=seed,
        logging_strategy="steps",
        logging_steps=stage.log_every_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=stage.save_every_steps,
        eval_strategy="steps" if validate else "no",
        eval_steps=stage.save_every_steps,
        metric_for_best_model="loss" if validate else None,
        greater_is_better=False if validate else None,
        remove_unused_columns=False,
        dataloader_pin_memory=compute.device == "cuda",
        disable_tqdm=True,
        report_to=[],
    )


_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
