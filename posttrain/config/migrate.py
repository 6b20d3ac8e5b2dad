"""Names that other tools use for what a recipe says, and what has become of the others."""

from __future__ import annotations

from typing import Literal

from posttrain.config.base import Config, ConfigPath, StageName
from posttrain.config.not_carried import NOT_NEEDED, find_reason

NewStage = Literal["pretrain", "sft", "reward", "dpo", "ppo", "grpo"]


class MigrateConfig(Config):
    """Settings of another tool, and the recipe they become."""

    source: ConfigPath
    """YAML of a training script or LLaMA-Factory, a shell script of flags, or a DeepSpeed JSON."""
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
    "r": "lora.rank",
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
    "use_swanlab": "tracking",
    "swanlab_project": "tracking.swanlab.project",
    "swanlab_workspace": "tracking.swanlab.workspace",
    "logger": "tracking",
    "output_dir": "output",
    "train_file": "stages.STAGE.data.sources",
    "train_files": "stages.STAGE.data.sources",
    "train_data": "stages.STAGE.data.sources",
    "train_data_path": "stages.STAGE.data.sources",
    "data_path": "stages.STAGE.data.sources",
    "dataset": "stages.STAGE.data.sources",
    "eval_file": "stages.STAGE.data.validation_sources",
    "validation_file": "stages.STAGE.data.validation_sources",
    "eval_dataset": "stages.STAGE.data.validation_sources",
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
    "auto_find_batch_size": "stages.STAGE.batch_tokens",
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
    "disable_gradient_checkpointing": "stages.STAGE.activation_checkpointing",
    "gradient_checkpointing": "stages.STAGE.activation_checkpointing",
    "logging_steps": "stages.STAGE.log_every_steps",
    "save_steps": "stages.STAGE.save_every_steps",
    "save_freq": "stages.STAGE.save_every_steps",
    "save_total_limit": "stages.STAGE.keep_last",
    "metric_for_best_model": "stages.STAGE.keep_best.metric",
    "greater_is_better": "stages.STAGE.keep_best.higher_is_better",
    "load_best_model_at_end": "stages.STAGE.final_model",
    "early_stopping_patience": "stages.STAGE.early_stopping.patience",
    "early_stopping_threshold": "stages.STAGE.early_stopping.min_delta",
    "beta": "stages.dpo.beta",
    "pref_beta": "stages.dpo.beta",
    "loss_type": "stages.dpo.loss",
    "pref_loss": "stages.dpo.loss",
    "rpo_alpha": "stages.dpo.sft_weight",
    "pref_ftx": "stages.dpo.sft_weight",
    "label_smoothing": "stages.dpo.label_smoothing",
    "dpo_label_smoothing": "stages.dpo.label_smoothing",
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
    if old in NOT_NEEDED:
        return f"not needed: {NOT_NEEDED[old]}"
    reason = find_reason(old)
    return f"not here: {reason}" if reason else None
