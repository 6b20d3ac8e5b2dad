"""Settings of verl 0.9.1 that a recipe may reach, and what each of them takes.

verl itself takes any value for a known key (``lr=abc`` starts a cluster before it fails), so names
and types are checked here. A key that is not listed can still be given to ``run.sh``.
"""

from __future__ import annotations

import contextlib
import difflib
from typing import Any

VERL_VERSION = "0.9.1"

# Prefix -> type -> names; a name with `?` may be null.
_OPTIMIZER = {
    "int": "lr_warmup_steps total_training_steps",
    "float": "lr lr_warmup_steps_ratio weight_decay clip_grad min_lr_ratio num_cycles",
    "list": "betas",
    "text": "optimizer optimizer_impl lr_scheduler_type",
}
_MODEL = {
    "int": "lora_rank lora_alpha",
    "text": "path tokenizer_path? hf_config_path? custom_chat_template? external_lib? "
    "lora_adapter_path? exclude_modules?",
    "bool": "use_shm trust_remote_code enable_gradient_checkpointing enable_activation_offload "
    "use_remove_padding use_liger use_fused_kernels",
    "list or text": "target_modules",
}
_FSDP = {
    "int": "fsdp_size ulysses_sequence_parallel_size",
    "bool": "param_offload optimizer_offload offload_policy reshard_after_forward "
    "forward_prefetch use_orig_params use_torch_compile full_determinism",
    "text": "model_dtype dtype",
}
_SERVER = {
    "int": "tensor_model_parallel_size data_parallel_size expert_parallel_size "
    "pipeline_model_parallel_size max_num_batched_tokens max_model_len? max_num_seqs "
    "prompt_length response_length seed",
    "float": "gpu_memory_utilization temperature top_p",
    "bool": "enforce_eager free_cache_engine enable_chunked_prefill enable_prefix_caching "
    "disable_log_stats ignore_eos layered_summon do_sample full_determinism "
    "skip_tokenizer_init",
    "text": "name dtype load_format",
}
_GROUPS: dict[str, dict[str, str]] = {
    "data": {
        "list or text": "train_files val_files",
        "int": "train_batch_size gen_batch_size? val_batch_size? max_prompt_length "
        "max_response_length seed? dataloader_num_workers train_max_samples val_max_samples "
        "filter_overlong_prompts_workers?",
        "bool": "filter_overlong_prompts shuffle validation_shuffle trust_remote_code use_shm "
        "return_raw_chat return_full_prompt",
        "text": "truncation prompt_key reward_fn_key tokenizer?",
    },
    "algorithm": {
        "text": "adv_estimator kl_penalty",
        "float": "gamma lam",
        "bool": "norm_adv_by_std_in_grpo use_kl_in_reward",
    },
    "algorithm.kl_ctrl": {"text": "type", "float": "kl_coef target_kl", "int": "horizon"},
    "algorithm.filter_groups": {
        "bool": "enable",
        "text": "metric?",
        "int": "max_num_gen_batches max_inflight_gen_batches",
    },
    "algorithm.rollout_correction": {
        "text": "rollout_is? rollout_rs? loss_type",
        "float": "rollout_is_threshold rollout_rs_threshold?",
        "bool": "bypass_mode rollout_is_batch_normalize",
    },
    "actor_rollout_ref.model": _MODEL,
    "actor_rollout_ref.actor": {
        "int": "ppo_mini_batch_size ppo_micro_batch_size_per_gpu? ppo_max_token_len_per_gpu "
        "ppo_epochs data_loader_seed ulysses_sequence_parallel_size",
        "float": "clip_ratio clip_ratio_low clip_ratio_high clip_ratio_c entropy_coeff "
        "kl_loss_coef grad_clip",
        "bool": "use_dynamic_bsz use_kl_loss shuffle use_torch_compile calculate_entropy "
        "entropy_checkpointing entropy_from_logits_with_chunking",
        "text": "strategy kl_loss_type loss_agg_mode",
    },
    "actor_rollout_ref.actor.optim": _OPTIMIZER,
    "actor_rollout_ref.actor.fsdp_config": _FSDP,
    "actor_rollout_ref.actor.policy_loss": {"text": "loss_mode"},
    "actor_rollout_ref.actor.checkpoint": {"list": "save_contents load_contents"},
    "actor_rollout_ref.ref": {
        "int": "log_prob_micro_batch_size_per_gpu? log_prob_max_token_len_per_gpu "
        "ulysses_sequence_parallel_size",
        "bool": "log_prob_use_dynamic_bsz use_torch_compile",
        "text": "strategy",
    },
    "actor_rollout_ref.ref.fsdp_config": _FSDP,
    "actor_rollout_ref.rollout": {
        **_SERVER,
        "int": _SERVER["int"] + " n top_k nnodes n_gpus_per_node "
        "log_prob_micro_batch_size_per_gpu? log_prob_max_token_len_per_gpu",
        "bool": _SERVER["bool"] + " log_prob_use_dynamic_bsz calculate_log_probs",
        "text": _SERVER["text"] + " mode",
    },
    "actor_rollout_ref.rollout.val_kwargs": {
        "int": "n top_k",
        "float": "temperature top_p",
        "bool": "do_sample",
    },
    "actor_rollout_ref.rollout.agent": {"int": "num_workers", "text": "default_agent_loop"},
    "actor_rollout_ref.rollout.checkpoint_engine": {
        "text": "backend",
        "int": "update_weights_bucket_megabytes",
    },
    "critic": {
        "bool": "enable? use_dynamic_bsz shuffle",
        "int": "ppo_mini_batch_size ppo_micro_batch_size_per_gpu? forward_micro_batch_size_per_gpu?"
        " ppo_max_token_len_per_gpu ppo_epochs data_loader_seed ulysses_sequence_parallel_size",
        "float": "cliprange_value grad_clip",
        "text": "strategy loss_agg_mode",
    },
    "critic.model": _MODEL,
    "critic.optim": _OPTIMIZER,
    "critic.fsdp": _FSDP,
    "reward": {"int": "num_workers"},
    "reward.custom_reward_function": {"text": "path? name"},
    "reward.reward_manager": {"text": "source name"},
    "reward.reward_model": {
        "bool": "enable enable_resource_pool",
        "int": "n_gpus_per_node nnodes",
        "text": "model_path?",
    },
    "reward.reward_model.rollout": _SERVER,
    "trainer": {
        "list": "logger",
        "int": "total_epochs total_training_steps? n_gpus_per_node nnodes save_freq test_freq "
        "critic_warmup log_val_generations max_actor_ckpt_to_keep? max_critic_ckpt_to_keep? "
        "ray_wait_register_center_timeout esi_redundant_time",
        "bool": "balance_batch val_before_train val_only use_v1 del_local_ckpt_after_load",
        "text": "project_name experiment_name default_local_dir default_hdfs_dir? resume_mode "
        "resume_from_path? rollout_data_dir? validation_data_dir? device",
    },
    "trainer.v1": {"text": "trainer_mode"},
    "transfer_queue.backend": {"text": "storage_backend"},
    "transfer_queue.backend.SimpleStorage": {"int": "total_storage_size num_data_storage_units"},
    "ray_kwargs": {"text": "timeline_json_file?"},
    "ray_kwargs.ray_init": {"int": "num_cpus?"},
}
VERL_KEYS = {
    f"{prefix}.{name.removesuffix('?')}": kind + "?" * name.endswith("?")
    for prefix, kinds in _GROUPS.items()
    for kind, names in kinds.items()
    for name in names.split()
}
"""Key -> ``int``, ``float``, ``bool``, ``text``, ``list`` or ``list or text``; with a ``?`` at its
end where null is allowed."""

ROLLOUT_BACKENDS = ("vllm", "sglang", "trtllm")
REMOVED_ROLLOUT = "verl has removed its `hf` rollout; choose vllm, sglang or trtllm"
# Type -> Python types, name in messages.
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "text": ((str,), "text"),
    "list": ((list, tuple), "a list"),
    "list or text": ((list, tuple, str), "text or a list"),
}


def read_verl_setting(key: str, value: Any) -> Any:
    """Check one setting of verl.

    Args:
        key: Dotted, such as ``actor_rollout_ref.rollout.n``.
        value: A plain value, or a list of them.

    Returns:
        The value; a number that YAML takes for text, such as ``1e-6``, as a number.

    Raises:
        ValueError: verl has no such key, or it takes another type; one line that says so.
    """
    kind = VERL_KEYS.get(key)
    if kind is None:
        near = difflib.get_close_matches(key, VERL_KEYS, 1, 0.6)
        raise ValueError(
            f"`{key}` is no setting of verl {VERL_VERSION} that is known here; "
            + (f"did you mean `{near[0]}`?" if near else "others can be given to run.sh")
        )
    if value is None and kind.endswith("?"):
        return value
    types, wanted = _TYPES[kind.removesuffix("?")]
    if types[-1] is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"`{key}` takes {wanted}, not {value!r}")
    if key.endswith("rollout.name") and value not in ROLLOUT_BACKENDS:
        raise ValueError(f"`{key}` is {value!r}: {REMOVED_ROLLOUT}")
    return value
