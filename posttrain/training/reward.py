"""Reward models: pairs as trees, the reward read at the last token of each answer.

Letters: P pairs of a batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.data.prepare import PreparedData
from posttrain.errors import CheckpointError, ConfigError
from posttrain.logs import say
from posttrain.models.heads import end_positions, load_classifier, prepare_reward, score_ends
from posttrain.models.load import (
    find_base,
    find_model,
    is_adapter,
    load_adapter,
    load_tokenizer,
)
from posttrain.models.lora import quiet_peft
from posttrain.objectives.reward import bradley_terry_loss
from posttrain.training.model import begin_model, prepare_tuning, tune, weight_format
from posttrain.training.objective import BatchResult
from posttrain.training.offline import Method, train_offline
from posttrain.training.stage import TrainingJob, TrainingSummary


def train_reward(job: TrainingJob) -> TrainingSummary:
    """Run or resume the training of a reward model; see ``train_offline``."""
    return train_offline(job, _build_method, build_reward_model)


def _build_method(job: TrainingJob, model: Any, data: PreparedData) -> Method:
    tokenizer = load_tokenizer(job.recipe.model)
    ends = {int(store.token_ids[i - 1]) for store in [data.train] for i in store.offsets[1:]}
    if tokenizer.pad_token_id in ends:
        raise ConfigError(
            f"the tokenizer pads with {tokenizer.pad_token}, which also ends answers: transformers "
            "would read the reward one token too early",
            hint="set another pad_token in its tokenizer_config.json",
        )
    if tokenizer.pad_token_id is None:
        say("the tokenizer has no pad token: the model will score one text at a time elsewhere")
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return Method(RewardObjective(), _add_ends, _add_ends)


def _add_ends(
    packed: dict[str, Any], examples: np.ndarray[Any, Any], number: int
) -> dict[str, Any]:
    return {**packed, "end_positions": end_positions(packed["segments"])}


class RewardObjective:
    """Bradley-Terry loss, mean over pairs."""

    def weigh(self, batch: dict[str, Any]) -> Tensor:
        """Pairs."""
        ends: Tensor = batch["end_positions"]
        return torch.tensor(len(ends) / 2, device=ends.device)

    def measure(self, model: Any, batch: dict[str, Any], total_weight: Tensor) -> BatchResult:
        """Score both answers of every pair."""
        chosen_P, rejected_P = score_ends(model, batch).view(-1, 2).unbind(-1)
        loss_P = bradley_terry_loss(chosen_P, rejected_P)
        with torch.no_grad():
            sums = {
                "loss": loss_P.detach().sum(),
                "pair_accuracy": (chosen_P > rejected_P).float().sum(),
                "margin": (chosen_P - rejected_P).sum(),
                "chosen_reward": chosen_P.detach().sum(),
                "rejected_reward": rejected_P.detach().sum(),
            }
        return BatchResult(loss_P.sum() / total_weight, sums, self.weigh(batch))


def build_reward_model(job: TrainingJob) -> Any:
    """Load the starting model with a fresh reward head, or a reward model to go on with."""
    attention = begin_model(job)
    tuning = job.recipe.tuning
    config = job.recipe.model
    place = Path(find_model(config.path))
    if is_adapter(place):
        config = config.model_copy(update={"path": find_base(place)})

    def prepare(model: Any) -> None:
        prepare_reward(model)
        prepare_tuning(job, model)

    model = load_classifier(
        config,
        prepare=prepare,
        attention=attention.name,
        **weight_format(job),
    )
    if is_adapter(place):
        model = _add_adapter(model, place)
    elif tuning == "full":
        model.requires_grad_(True)
    return tune(job, model, "SEQ_CLS")


def _add_adapter(model: Any, place: Path) -> Any:
    """Put a folder's adapter around a reward model; that of a language model gets the fresh head.

    Raises:
        CheckpointError: It does not fit.
    """
    import peft

    settings: Any = peft.LoraConfig.from_pretrained(str(place))
    if settings.task_type == "SEQ_CLS":
        return load_adapter(model, place, trainable=True)
    settings.task_type, settings.inference_mode = "SEQ_CLS", False
    settings.modules_to_save = [*(settings.modules_to_save or ()), "score"]
    weights = peft.load_peft_weights(str(place), device="cpu")
    weights["base_model.model.score.weight"] = model.score.weight.detach().clone()
    with quiet_peft():
        wrapped = peft.get_peft_model(model, settings)
        found = peft.set_peft_model_state_dict(wrapped, weights)
    missing = [name for name in found.missing_keys if ".lora_" in name]
    if wrong := [*missing, *found.unexpected_keys]:
        raise CheckpointError(
            f"adapter {place}: {wrong[0]} is missing or does not fit a reward model",
            hint="merge it first, and start from the merged model",
        )
    return wrapped
