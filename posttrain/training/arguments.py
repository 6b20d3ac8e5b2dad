"""A stage's settings -> transformers' TrainingArguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.train import TrainingStage
from posttrain.errors import ConfigError
from posttrain.logs import say
from posttrain.runtime import Compute
from posttrain.training.schedules import count_warmup, scheduler_name


def build_arguments(  # noqa: PLR0913 - one value for each side that has a say
    stage: TrainingStage,
    *,
    folder: Path,
    compute: Compute,
    steps: int,
    seed: int,
    save_steps: int,
    validate: bool,
    deepspeed: Any = None,
) -> Any:
    """Build the arguments of our trainer.

    Args:
        stage: Settings of the stage.
        folder: The stage's folder.
        compute: Device and number format.
        steps: Optimizer steps of the whole stage.
        seed: Of dropout.
        save_steps: Steps between checkpoints.
        validate: Whether there is something to measure on.
        deepspeed: Its settings, or a file of them; None where it is not used.

    Returns:
        ``transformers.TrainingArguments``.
    """
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 1,  # an item is a whole optimizer step already
        # The trainer's own optimizer reads the stage; these are for DeepSpeed's.
        "learning_rate": stage.learning_rate,
        "weight_decay": stage.weight_decay,
        "adam_beta1": stage.beta1,
        "adam_beta2": stage.beta2,
        "adam_epsilon": stage.epsilon,
        "lr_scheduler_type": scheduler_name(stage),
        "lr_scheduler_kwargs": dict(stage.schedule_options),
        "warmup_steps": count_warmup(stage, steps),
        "max_grad_norm": stage.max_grad_norm,
        "use_cpu": compute.device == "cpu",
        "bf16": compute.precision == "bf16",
        "deepspeed": deepspeed,
        "ddp_find_unused_parameters": False,
        # Nothing here changes buffers, and the sync would be a collective in every forward call.
        "ddp_broadcast_buffers": False,
        # Ranks meet at every step; only a dead one is this late.
        "ddp_timeout": 3600,
        "seed": seed,
        "logging_strategy": "steps",
        "logging_steps": stage.log_every_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "eval_strategy": "steps" if validate else "no",
        "eval_steps": save_steps,
        "remove_unused_columns": False,
        "dataloader_pin_memory": compute.device == "cuda",
        "disable_tqdm": True,
        "report_to": [],
    }
    arguments = _build(settings, stage)
    keep_to_one_device(arguments)
    return arguments


def check_passed_on(stage: TrainingStage, *, device: str) -> None:
    """Try what a stage passes on to transformers before anything is spent.

    Args:
        stage: Its settings.
        device: As the recipe says, perhaps ``auto``.

    Raises:
        ConfigError: transformers refuses it.
    """
    if stage.training_args:
        _build({"output_dir": "unused", "use_cpu": device == "cpu", "report_to": []}, stage)


def _build(settings: dict[str, Any], stage: TrainingStage) -> Any:
    from transformers import TrainingArguments

    try:
        arguments = TrainingArguments(**settings | stage.training_args)
        arguments.get_process_log_level()  # a wrong one would come out in the trainer only
    except (ValueError, TypeError, KeyError, ImportError) as error:
        if not stage.training_args:
            raise
        reason = str(error).strip().splitlines()[0]
        if isinstance(error, KeyError):  # its text is the value alone
            reason = f"it knows no {reason}"
        raise ConfigError(
            f"stage `{getattr(stage, 'name', '')}`: transformers refuses "
            f"`training_args: {stage.training_args}`: {reason}"
        ) from error
    return arguments


def keep_to_one_device(arguments: Any) -> None:
    """Use one GPU in a process that sees several, and say how to use all of them.

    Without a launcher transformers would wrap the model in ``nn.DataParallel``, which cuts batches
    along their first side; a packed batch has nothing there to cut.

    Args:
        arguments: ``transformers.TrainingArguments``; changed in place.
    """
    if arguments.n_gpu > 1:
        say(
            f"{arguments.n_gpu} GPUs are visible, one is used; for all of them: torchrun "
            f"--nproc_per_node {arguments.n_gpu} -m posttrain train RECIPE"
        )
        arguments._n_gpu = 1
