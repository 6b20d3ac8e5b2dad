"""Names that other tools use for what a recipe says, and what has become of the others."""

from __future__ import annotations

from typing import Literal

from posttrain.config.base import Config, ConfigPath, StageName

NewStage = Literal["pretrain", "sft", "reward", "dpo", "ppo", "grpo"]


class MigrateConfig(Config):
    """Settings of another tool, and the recipe they become."""

    source: ConfigPath
    """YAML of a training script or of LLaMA-Factory, or a DeepSpeed JSON."""
    out: ConfigPath
    """Recipe to write."""
    stage: NewStage | None = None
    """What kind of training it is, where the file says several or none."""
    name: StageName | None = None
    """Name of the recipe; that of the new file where absent."""


OLD_NAMES: dict[str, str] = {
    "model_name_or_path": "model.path",
    "model_path": "model.path",
    "model_name": "model.path",
    "tokenizer_name_or_path": "model.tokenizer",
    "tokenizer_path": "model.tokenizer",
    "template_path": "model.chat_template",
    "chat_template_path": "model.chat_template",
    "model_revision": "model.revision",
    "trust_remote_code": "model.trust_remote_code",
    "attn_implementation": "model.attention",
    "flash_attn": "model.attention",
    "finetuning_type": "tuning",
    "use_lora": "tuning",
    "use_peft": "tuning",
    "qlora": "tuning",
    "quantization_bit": "tuning",
    "load_in_4bit": "tuning",
    "lora_rank": "lora.rank",
    "lora_r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_target_modules": "lora.targets",
    "lora_target": "lora.targets",
    "target_modules": "lora.targets",
    "loraplus_lr_ratio": "lora.plus_ratio",
    "seed": "seed",
    "use_cpu": "compute.device",
    "no_cuda": "compute.device",
    "layers_to_transform": "lora.layers",
    "rank_pattern": "lora.rank_pattern",
    "alpha_pattern": "lora.alpha_pattern",
    "use_dora": "lora.dora",
    "use_rslora": "lora.rslora",
    "init_lora_weights": "lora.init",
    "modules_to_save": "lora.train_in_full",
    "additional_target": "lora.train_in_full",
    "trainable_token_indices": "lora.train_rows",
    "freeze_trainable_layers": "train_only",
    "freeze_trainable_modules": "train_only",
    "freeze_extra_modules": "train_only",
    "unfrozen_parameters": "train_only",
    "frozen_parameters": "freeze",
    "neftune_noise_alpha": "stages.sft.neftune_alpha",
    "bf16": "compute.precision",
    "pure_bf16": "compute.weights",
    "fp16": "compute.precision",
    "deepspeed": "parallel.deepspeed",
    "trace": "tracking",
    "report_to": "tracking",
    "logger": "tracking",
    "output_dir": "output",
    "train_file": "stages.STAGE.data.sources",
    "train_data": "stages.STAGE.data.sources",
    "train_data_path": "stages.STAGE.data.sources",
    "data_path": "stages.STAGE.data.sources",
    "dataset": "stages.STAGE.data.sources",
    "eval_file": "stages.STAGE.data.validation_sources",
    "validation_file": "stages.STAGE.data.validation_sources",
    "eval_data_path": "stages.STAGE.data.validation_sources",
    "val_size": "stages.STAGE.data.split.validation",
    "max_samples": "stages.STAGE.data.sources.0.limit",
    "max_length": "stages.STAGE.data.max_tokens",
    "max_seq_length": "stages.STAGE.data.max_tokens",
    "model_max_length": "stages.STAGE.data.max_tokens",
    "max_prompt_length": "stages.STAGE.data.max_tokens",
    "cutoff_len": "stages.STAGE.data.max_tokens",
    "block_size": "stages.STAGE.data.block_tokens",
    "text_fields": "stages.STAGE.data.text_fields",
    "mask_share": "stages.STAGE.mask.share",
    "mlm_probability": "stages.STAGE.mask.share",
    "mask_history": "stages.STAGE.data.train_on",
    "train_on_prompt": "stages.STAGE.data.train_on",
    "train_on_inputs": "stages.STAGE.data.train_on",
    "num_train_epochs": "stages.STAGE.epochs",
    "num_epochs": "stages.STAGE.epochs",
    "max_steps": "stages.STAGE.steps",
    "per_device_train_batch_size": "stages.STAGE.batch_tokens",
    "train_micro_batch_size_per_gpu": "stages.STAGE.batch_tokens",
    "batch_size": "stages.STAGE.batch_tokens",
    "gradient_accumulation_steps": "stages.STAGE.accumulate",
    "learning_rate": "stages.STAGE.learning_rate",
    "actor_lr": "stages.STAGE.learning_rate",
    "optim": "stages.STAGE.optimizer",
    "use_muon": "stages.STAGE.optimizer",
    "lr_scheduler_type": "stages.STAGE.schedule",
    "lr_scheduler_kwargs": "stages.STAGE.schedule_options",
    "warmup_ratio": "stages.STAGE.warmup",
    "warmup_steps": "stages.STAGE.warmup_steps",
    "num_warmup_steps": "stages.STAGE.warmup_steps",
    "weight_decay": "stages.STAGE.weight_decay",
    "adam_beta1": "stages.STAGE.beta1",
    "adam_beta2": "stages.STAGE.beta2",
    "adam_epsilon": "stages.STAGE.epsilon",
    "max_grad_norm": "stages.STAGE.max_grad_norm",
    "gradient_clipping": "stages.STAGE.max_grad_norm",
    "activation_checkpointing": "stages.STAGE.activation_checkpointing",
    "gradient_checkpointing": "stages.STAGE.activation_checkpointing",
    "logging_steps": "stages.STAGE.log_every_steps",
    "save_steps": "stages.STAGE.save_every_steps",
    "save_freq": "stages.STAGE.save_every_steps",
    "save_total_limit": "stages.STAGE.keep_last",
    "metric_for_best_model": "stages.STAGE.keep_best.metric",
    "greater_is_better": "stages.STAGE.keep_best.higher_is_better",
    "beta": "stages.dpo.beta",
    "pref_beta": "stages.dpo.beta",
    "loss_type": "stages.dpo.loss",
    "pref_loss": "stages.dpo.loss",
    "rpo_alpha": "stages.dpo.sft_weight",
    "pref_ftx": "stages.dpo.sft_weight",
    "label_smoothing": "stages.dpo.label_smoothing",
    "reward_model_name_or_path": "stages.STAGE.rewards.model",
    "reward_model": "stages.STAGE.rewards.model",
    "max_response_length": "stages.STAGE.max_new_tokens",
    "max_completion_length": "stages.STAGE.max_new_tokens",
    "max_new_tokens": "stages.STAGE.max_new_tokens",
    "rollout_n": "stages.STAGE.completions",
    "num_generations": "stages.STAGE.completions",
    "train_batch_size": "stages.STAGE.prompts_per_rollout",
    "ppo_mini_batch_size": "stages.STAGE.updates_per_rollout",
    "ppo_epochs": "stages.STAGE.passes_per_rollout",
    "kl_loss_coef": "stages.STAGE.kl_weight",
    "clip_ratio": "stages.STAGE.clip_low",
    "temperature": "stages.STAGE.temperature",
    "gamma": "stages.STAGE.gamma",
    "lam": "stages.STAGE.gae_lambda",
    "rollout_backend": "stages.STAGE.engine",
}
"""Old name -> key of a recipe; ``STAGE`` stands for the name of a training stage."""

_PACKED = "every batch is packed here, nothing is padded"
_ALWAYS = "always so here"
_OWN_OPTIMIZER = "there are optimizer: adamw, adamw_8bit, adafactor, muon"
_UNPROVEN = "a compiled model has not been proven to train the same here"
_PLANNED = "all batches of all steps are planned before the first one"
_MEMORY_MAP = "encoded rows are read from a memory map"
_MEASURED = "validation is the loss per token over packed batches, nothing is gathered"
_HUB = "a finished model is published with posttrain merge publish=REPO"
_TRACKIO = "no tracker here: tensorboard, wandb, swanlab"
_PROCESSES = "start with torchrun; parallel says how processes share the work"
_NEWEST = "the same command goes on from the newest intact checkpoint"
_CHECKPOINTS = "validation is measured at every checkpoint: save_every_steps"
NOT_NEEDED: dict[str, str] = {
    "group_by_length": _PACKED,
    "length_column_name": _PACKED,
    "packing": _PACKED,
    "neat_packing": _PACKED,
    "padding_side": _PACKED,
    "resume_from_checkpoint": _NEWEST,
    "overwrite_output_dir": "an older result is kept aside, never overwritten",
    "overwrite_cache": "the cache knows its inputs by their contents",
    "cache_dir": "set POSTTRAIN_CACHE or HF_HUB_CACHE",
    "logging_dir": "logs lie in the stage's folder",
    "eval_strategy": _CHECKPOINTS,
    "evaluation_strategy": _CHECKPOINTS,
    "eval_steps": _CHECKPOINTS,
    "per_device_eval_batch_size": "validation uses batch_tokens",
    "load_best_model_at_end": "checkpoints/best is always kept; keep_best says by which metric",
    "early_stopping_patience": "all steps are run; checkpoints/best is kept beside the last one",
    "early_stopping_threshold": "all steps are run; checkpoints/best is kept beside the last one",
    "save_strategy": "checkpoints are by steps, and by the clock: save_every_steps, "
    "save_every_minutes",
    "logging_strategy": "log lines are by steps: log_every_steps",
    "save_safetensors": _ALWAYS,
    "save_only_model": "a checkpoint always holds what resuming needs",
    "do_train": "a stage stands in the recipe or does not",
    "do_eval": "add an evaluate stage",
    "do_predict": "add an evaluate stage",
    "predict_with_generate": "add an evaluate stage",
    "train_on_eos": "the end of every trained turn is trained",
    "remove_unused_columns": "the format decides which columns are read",
    "dataloader_num_workers": _MEMORY_MAP,
    "dataloader_pin_memory": _MEMORY_MAP,
    "dataloader_persistent_workers": _MEMORY_MAP,
    "dataloader_prefetch_factor": _MEMORY_MAP,
    "dataloader_multiprocessing_context": _MEMORY_MAP,
    "dataloader_in_order": _PLANNED,
    "dataloader_drop_last": _PLANNED,
    "data_seed": "the data order follows `seed`",
    "train_sampling_strategy": _PLANNED,
    "auto_find_batch_size": _PLANNED,
    "ignore_data_skip": "a resumed run goes on with exactly the batches that are left",
    "accelerator_config": _PLANNED,
    "label_names": "a packed batch lists its targets itself",
    "average_tokens_across_devices": "the loss is always per trained token of all devices",
    "include_num_input_tokens_seen": "metrics.jsonl counts tokens",
    "label_smoothing_factor": "the loss is the likelihood itself; dpo has label_smoothing",
    "optim_args": _OWN_OPTIMIZER,
    "optim_target_modules": _OWN_OPTIMIZER,
    "activation_checkpointing_kwargs": "it is never reentrant",
    "gradient_checkpointing_kwargs": "it is never reentrant",
    "torch_compile": _UNPROVEN,
    "torch_compile_backend": _UNPROVEN,
    "torch_compile_mode": _UNPROVEN,
    "use_liger_kernel": "the output layer computes scored positions alone, in chunks",
    "liger_kernel_config": "the output layer computes scored positions alone, in chunks",
    "use_cache": "training keeps no cache of keys and values",
    "bf16_full_eval": "validation computes as training does",
    "fp16_full_eval": "validation computes as training does",
    "logging_first_step": _ALWAYS,
    "logging_nan_inf_filter": "a loss that is not finite stops the run, it is never hidden",
    "disable_tqdm": "progress is told in lines",
    "log_on_each_node": "one process writes and speaks",
    "skip_memory_metrics": "posttrain plan estimates memory",
    "eval_delay": _CHECKPOINTS,
    "eval_on_start": "an evaluate stage before training measures the start",
    "prediction_loss_only": _MEASURED,
    "eval_do_concat_batches": _MEASURED,
    "eval_use_gather_object": _MEASURED,
    "eval_accumulation_steps": _MEASURED,
    "include_for_metrics": _MEASURED,
    "batch_eval_metrics": _MEASURED,
    "save_on_each_node": "all processes share one file system",
    "enable_jit_checkpoint": "a stopped run always writes a checkpoint",
    "restore_callback_states_from_checkpoint": _NEWEST,
    "push_to_hub": _HUB,
    "hub_model_id": _HUB,
    "hub_token": _HUB,
    "hub_private_repo": _HUB,
    "hub_strategy": _HUB,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
    "project": _TRACKIO,
    "trackio_space_id": _TRACKIO,
    "trackio_bucket_id": _TRACKIO,
    "trackio_static_space_id": _TRACKIO,
    "fsdp": _PROCESSES,
    "fsdp_config": _PROCESSES,
    "parallelism_config": _PROCESSES,
    "local_rank": _PROCESSES,
    "nproc_per_node": _PROCESSES,
    "ddp_broadcast_buffers": "no buffer changes in training",
    "preprocessing_num_workers": "prepared data is cached",
    "dataset_dir": "paths stand in the sources",
    "ddp_timeout": "no process waits inside a collective for data",
    "ddp_find_unused_parameters": "no unused parameters here",
    "template": "the tokenizer's own chat template is used; another one: model.chat_template",
    "plot_loss": "report.html has the plots",
    "run_name": "the run is named as the recipe",
    "stage": "told by `stage:`",
    "enabled": "told by `tuning:`",
    "pissa_init": "its adapters fit only the base that it has changed; see lora.init",
    "pissa_convert": "its adapters fit only the base that it has changed; see lora.init",
    "use_fast_tokenizer": _ALWAYS,
    "n_gpus_per_node": "start with torchrun --nproc_per_node N",
    "nnodes": "start with torchrun --nnodes N",
    "use_kl_loss": "kl_weight above 0 says so",
    "project_name": "told by `tracking:`",
    "experiment_name": "the run is named as the recipe",
    "ppo_micro_batch_size_per_gpu": "batch_tokens bounds what is computed at once",
}
"""Old name -> why a recipe has no key for it."""
OLD_SECTIONS = frozenset(
    ("data", "peft", "training_args", "pretrain", "sft", "reward", "dpo", "ppo", "grpo", "trainer")
)
"""What other tools put at the top of a file around several settings."""


def find_new_name(old: str, *, at_top: bool = False) -> str | None:
    """Tell where a setting of another tool is in a recipe, or why it is not; None for no such.

    Args:
        old: Its name.
        at_top: Whether it stands at the top of the file, where it may be a whole section.
    """
    if at_top and old in OLD_SECTIONS:
        return "a section of another tool's settings"
    if old in OLD_NAMES:
        return f"here it is `{OLD_NAMES[old]}`"
    return f"not needed: {NOT_NEEDED[old]}" if old in NOT_NEEDED else None
