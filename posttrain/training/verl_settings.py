"""A stage's settings in verl's words, and the arithmetic that verl itself finds out late.

What differs from the same stage on one machine is told in docs/verl.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.model import LoraConfig
from posttrain.config.recipe import Recipe
from posttrain.config.train import GrpoStage, PpoStage
from posttrain.config.verl_keys import read_verl_setting
from posttrain.errors import ConfigError
from posttrain.training.stage import TrainingJob

RolloutStage = GrpoStage | PpoStage
_BATCH = "data.train_batch_size"
_ANSWERS = "actor_rollout_ref.rollout.n"
_MINI = "actor_rollout_ref.actor.ppo_mini_batch_size"
_MICRO = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
_TENSOR_PARALLEL = "actor_rollout_ref.rollout.tensor_model_parallel_size"
# Of vLLM's adapters.
_MOST_RANK = 512


# Settings of adapters that verl has no word for, and what they are without it.
_NOT_IN_VERL = ("dropout", "layers", "rank_pattern", "alpha_pattern", "rslora", "dora", "init",
                "train_in_full")  # fmt: skip


def check_method(recipe: Recipe, stage: RolloutStage) -> None:
    """Refuse what verl cannot do, before anything is prepared.

    Raises:
        ConfigError: Of tuning, schedule, reward model or batch sizes.
    """
    name, lora = f"stage `{stage.name}`", recipe.lora
    if recipe.tuning == "qlora":
        raise ConfigError(
            f"{name}: verl cannot train adapters on a model in four bits",
            hint="set tuning=lora or tuning=full, or engine=local",
        )
    if recipe.tuning == "lora" and (lora.alpha % 1 or lora.rank > _MOST_RANK):
        raise ConfigError(
            f"{name}: verl takes a whole lora.alpha and a lora.rank up to {_MOST_RANK}, not "
            f"{lora.alpha:g} and {lora.rank}",
            hint="round them",
        )
    if recipe.tuning == "full" and (recipe.train_only or recipe.freeze):
        raise ConfigError(
            f"{name}: verl trains every weight or adapters; it has no train_only and no freeze",
            hint="leave them out, or set engine=local",
        )
    if recipe.tuning == "lora":
        _check_lora(name, lora)
    _check_optimizer(stage, lora.plus_ratio, name)
    rewards = stage.rewards
    if (rewards.model or rewards.model_from) and stage.verl.rollout_backend == "trtllm":
        raise ConfigError(
            f"{name}: verl serves no reward model with trtllm",
            hint="set verl.rollout_backend to vllm or sglang",
        )
    if stage.prompts_per_rollout % stage.updates_per_rollout:
        raise ConfigError(
            f"{name}: {stage.prompts_per_rollout} prompts_per_rollout cannot be shared out evenly "
            f"over {stage.updates_per_rollout} updates_per_rollout, as verl must",
            hint="choose numbers that divide",
        )
    settings = _batch_settings(stage) | stage.verl.overrides
    count_batches(settings, name)


def _check_optimizer(stage: RolloutStage, plus_ratio: float, name: str) -> None:
    """Refuse what verl's AdamW does not do."""
    if stage.schedule not in ("cosine", "constant"):
        raise ConfigError(
            f"{name}: verl has no {stage.schedule} schedule",
            hint="set schedule to cosine or constant",
        )
    ours = {
        "optimizer": stage.optimizer != "adamw",
        "epsilon": stage.epsilon != type(stage).model_fields["epsilon"].default,
        "schedule_options": bool(stage.schedule_options),
        "training_args": bool(stage.training_args),
        "lora.plus_ratio": plus_ratio != 1,
    }
    if used := [key for key, changed in ours.items() if changed]:
        raise ConfigError(
            f"{name}: {used[0]} is not handed to verl",
            hint="leave it out, set engine=local, or use verl.overrides",
        )


def build_settings(job: TrainingJob, model: str, folder: Path, rows: int) -> dict[str, Any]:
    """Say in verl's words what a stage shall do.

    Args:
        job: The stage.
        model: Folder or hub id of the whole model to start from.
        folder: Where the files for verl will lie.
        rows: Training prompts.

    Returns:
        Dotted key -> value, the recipe's own ``overrides`` last.

    Raises:
        ConfigError: A value does not fit its key.
    """
    stage: RolloutStage = job.stage
    settings = {
        **_data_settings(job, folder),
        **_batch_settings(stage),
        **_model_settings(job, model, folder),
        **_optimizer_settings(stage, "actor_rollout_ref.actor.optim", stage.learning_rate),
        **_method_settings(job, model, folder),
        **_rollout_settings(job),
        **_reward_settings(stage, folder),
        **_trainer_settings(job, rows),
        **stage.verl.overrides,
    }
    try:
        return {key: read_verl_setting(key, value) for key, value in settings.items()}
    except ValueError as error:
        raise ConfigError(f"stage `{stage.name}`: {error}") from None


def _data_settings(job: TrainingJob, folder: Path) -> dict[str, Any]:
    return {
        "data.train_files": str(folder / "train.parquet"),
        "data.val_files": str(folder / "validation.parquet"),
        "data.max_prompt_length": job.stage.data.max_tokens,
        "data.max_response_length": job.stage.max_new_tokens,
        # Longer ones have been rejected already; one that is too long here is a fault.
        "data.filter_overlong_prompts": False,
        "data.truncation": "error",
        "data.shuffle": True,
        "data.seed": job.recipe.seed,
        "data.trust_remote_code": job.recipe.model.trust_remote_code,
    }


def _batch_settings(stage: RolloutStage) -> dict[str, Any]:
    micro = stage.verl.micro_batch_per_gpu
    return {
        _BATCH: stage.prompts_per_rollout,
        _ANSWERS: stage.completions,
        _MINI: stage.prompts_per_rollout // stage.updates_per_rollout,
        _MICRO: micro,
        "actor_rollout_ref.actor.ppo_epochs": stage.passes_per_rollout,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": micro,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": micro,
        "trainer.n_gpus_per_node": stage.verl.gpus_per_node,
        "trainer.nnodes": stage.verl.nodes,
        _TENSOR_PARALLEL: stage.verl.tensor_parallel,
    }


def _check_lora(name: str, lora: LoraConfig) -> None:
    """Refuse adapters that verl cannot build.

    Raises:
        ConfigError: Names the setting.
    """
    plain = LoraConfig()
    for key in _NOT_IN_VERL:
        if getattr(lora, key) != getattr(plain, key):
            raise ConfigError(
                f"{name}: verl has no lora.{key}", hint="leave it out, or set engine=local"
            )
    if lora.train_rows not in ("auto", ()):
        raise ConfigError(
            f"{name}: verl trains no rows (lora.train_rows)",
            hint="leave it out, or set engine=local",
        )


def _model_settings(job: TrainingJob, model: str, folder: Path) -> dict[str, Any]:
    lora = job.recipe.lora
    settings = {
        "path": model,
        "tokenizer_path": str(folder / "tokenizer"),
        "trust_remote_code": job.recipe.model.trust_remote_code,
        "enable_gradient_checkpointing": job.stage.activation_checkpointing,
    }
    adapters = {
        "lora_rank": lora.rank,
        "lora_alpha": int(lora.alpha),
        "target_modules": "all-linear" if lora.targets == "auto" else lora.targets,
    }
    if job.recipe.tuning == "lora":
        settings |= adapters
    return {f"actor_rollout_ref.model.{name}": value for name, value in settings.items()}


def _warmup_settings(stage: RolloutStage, prefix: str) -> dict[str, Any]:
    if stage.warmup_steps is None:
        return {f"{prefix}.lr_warmup_steps_ratio": stage.warmup}
    return {f"{prefix}.lr_warmup_steps": stage.warmup_steps}


def _optimizer_settings(stage: RolloutStage, prefix: str, rate: float) -> dict[str, Any]:
    return {
        f"{prefix}.lr": rate,
        f"{prefix}.lr_scheduler_type": stage.schedule,
        **_warmup_settings(stage, prefix),
        f"{prefix}.weight_decay": stage.weight_decay,
        f"{prefix}.betas": [stage.beta1, stage.beta2],
        f"{prefix}.clip_grad": stage.max_grad_norm,
    }


def _method_settings(job: TrainingJob, model: str, folder: Path) -> dict[str, Any]:
    stage, actor = job.stage, "actor_rollout_ref.actor"
    grpo, pulled = isinstance(stage, GrpoStage), stage.kl_weight > 0
    settings: dict[str, Any] = {
        f"{actor}.clip_ratio_low": stage.clip_low,
        f"{actor}.clip_ratio_high": stage.clip_high,
        f"{actor}.loss_agg_mode": "token-mean",
        f"{actor}.entropy_coeff": 0.0,
        f"{actor}.data_loader_seed": job.recipe.seed,
        # The distance from the reference is part of GRPO's loss and of PPO's rewards.
        f"{actor}.use_kl_loss": grpo and pulled,
        "algorithm.use_kl_in_reward": not grpo and pulled,
    }
    if isinstance(stage, PpoStage):
        settings |= {
            "algorithm.adv_estimator": "gae",
            "algorithm.gamma": stage.gamma,
            "algorithm.lam": stage.gae_lambda,
            "algorithm.kl_penalty": "kl",
            "algorithm.kl_ctrl.kl_coef": stage.kl_weight,
            "critic.model.path": model,
            "critic.model.tokenizer_path": str(folder / "tokenizer"),
            "critic.model.trust_remote_code": job.recipe.model.trust_remote_code,
            "critic.model.enable_gradient_checkpointing": stage.activation_checkpointing,
            "critic.ppo_micro_batch_size_per_gpu": stage.verl.micro_batch_per_gpu,
            "critic.cliprange_value": stage.value_clip,
            "trainer.critic_warmup": 0,
            **_optimizer_settings(stage, "critic.optim", stage.verl.critic_learning_rate),
        }
        return settings
    return settings | {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": stage.scale == "group",
        f"{actor}.kl_loss_coef": stage.kl_weight,
        f"{actor}.kl_loss_type": "low_var_kl",
    }


def _rollout_settings(job: TrainingJob) -> dict[str, Any]:
    stage: RolloutStage = job.stage
    settings: dict[str, Any] = {
        "name": stage.verl.rollout_backend,
        "temperature": stage.temperature,
        "gpu_memory_utilization": stage.verl.gpu_memory_utilization,
        "max_model_len": stage.data.max_tokens + stage.max_new_tokens,
        "seed": job.recipe.seed,
    }
    if job.recipe.tuning == "lora":
        # The server reads the base model itself and is sent only adapters, layer by layer.
        settings |= {"load_format": "safetensors", "layered_summon": True}
    return {f"actor_rollout_ref.rollout.{name}": value for name, value in settings.items()}


def _reward_settings(stage: RolloutStage, folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "reward.custom_reward_function.path": str(folder / "reward.py"),
        "reward.custom_reward_function.name": "compute_score",
        "reward.reward_model.enable": stage.rewards.model is not None,
    }
    if stage.rewards.model:
        settings |= {
            "reward.reward_model.model_path": stage.rewards.model,
            "reward.reward_model.n_gpus_per_node": stage.verl.gpus_per_node,
            "reward.reward_model.rollout.name": stage.verl.rollout_backend,
            "reward.reward_model.rollout.tensor_model_parallel_size": stage.verl.tensor_parallel,
            "reward.reward_model.rollout.gpu_memory_utilization": stage.verl.gpu_memory_utilization,
        }
    return settings


def _trainer_settings(job: TrainingJob, rows: int) -> dict[str, Any]:
    stage: RolloutStage = job.stage
    # A step of verl is a round here.
    rhythm = -(-stage.save_every_steps // (stage.updates_per_rollout * stage.passes_per_rollout))
    return {
        "trainer.total_training_steps": stage.rollouts,
        "trainer.total_epochs": -(-stage.rollouts // max(1, rows // stage.prompts_per_rollout)),
        "trainer.save_freq": rhythm,
        "trainer.test_freq": rhythm,
        "trainer.val_before_train": False,
        "trainer.max_actor_ckpt_to_keep": stage.keep_last,
        "trainer.max_critic_ckpt_to_keep": stage.keep_last,
        "trainer.logger": list(stage.verl.logger),
        "trainer.project_name": "posttrain",
        "trainer.experiment_name": f"{job.recipe.name}-{stage.name}",
        "trainer.default_local_dir": str(job.folder / "verl_checkpoints"),
        # With its default of 8, verl waits for ever on a machine with few cores.
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": stage.verl.nodes,
    }


def count_batches(settings: dict[str, Any], name: str) -> list[str]:
    """Multiply out verl's batch sizes.

    Args:
        settings: Of verl, with the sizes.
        name: What to call the stage in messages.

    Returns:
        Lines that spell it out.

    Raises:
        ConfigError: The sizes do not divide as verl needs them to.
    """
    gpus = settings["trainer.n_gpus_per_node"] * settings["trainer.nnodes"]
    prompts, each, mini = settings[_BATCH], settings[_ANSWERS], settings[_MINI]
    micro, spread = settings[_MICRO], settings[_TENSOR_PARALLEL]
    passes = settings["actor_rollout_ref.actor.ppo_epochs"]
    answers, update = prompts * each, mini * each
    for fits, problem, hint in (
        (
            prompts % mini == 0,
            f"a round of {prompts} prompts is no multiple of the {mini} of an update",
            f"change {_MINI}",
        ),
        (
            update % gpus == 0,
            f"an update's {mini} prompts x {each} answers = {update} cannot be shared out evenly "
            f"over {gpus} GPUs",
            "change prompts_per_rollout, updates_per_rollout or verl.gpus_per_node",
        ),
        (
            update // gpus % micro == 0,
            f"an update's {update // gpus} answers per GPU are no multiple of {micro}, those that "
            "go through the model at once",
            "change verl.micro_batch_per_gpu",
        ),
        (
            gpus % spread == 0,
            f"{gpus} GPUs cannot hold copies of the model on {spread} each",
            "change verl.tensor_parallel",
        ),
    ):
        if not fits:
            raise ConfigError(f"{name}: {problem}", hint=hint)
    return [
        f"round    {prompts:,} prompts (train_batch_size) x {each} answers (n) = {answers:,}",
        f"update   {mini:,} prompts (ppo_mini_batch_size) x {each} answers = {update:,} on {gpus} "
        f"GPUs = {update // gpus:,} each, {micro} at once",
        f"steps    {prompts // mini} updates x {passes} passes = {prompts // mini * passes} "
        "optimizer steps a round",
    ]
