"""Supervised fine-tuning, full or through adapters: the assistant's turns, packed."""

from __future__ import annotations

from typing import Any

from posttrain.data.prepare import PreparedData
from posttrain.models.noise import add_embedding_noise
from posttrain.training.objective import LanguageObjective
from posttrain.training.offline import Method, train_offline
from posttrain.training.stage import TrainingJob, TrainingSummary


def train_sft(job: TrainingJob) -> TrainingSummary:
    """Run or resume supervised fine-tuning; see ``train_offline``."""
    return train_offline(job, _build_method)


def _build_method(job: TrainingJob, model: Any, data: PreparedData) -> Method:
    if job.stage.neftune_alpha:
        add_embedding_noise(model, job.stage.neftune_alpha)
    return Method(LanguageObjective())
