"""Masked language modelling: an encoder finds tokens that are hidden anew in every batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.data.masking import Masking, mask_batch
from posttrain.data.prepare import PreparedData
from posttrain.errors import ConfigError
from posttrain.models.load import load_base_config, load_model, load_tokenizer
from posttrain.models.masked import check_encoder, prepare_masked, score_masked
from posttrain.models.packed import TokenScores
from posttrain.training.batches import Finish
from posttrain.training.model import begin_model, prepare_tuning, tune, weight_format
from posttrain.training.objective import LanguageObjective
from posttrain.training.offline import Method, train_offline
from posttrain.training.stage import TrainingJob, TrainingSummary

# Streams of random numbers that must not meet: the order of the data has one of its own.
_TRAIN, _VALIDATION = 1, 2


def train_mlm(job: TrainingJob) -> TrainingSummary:
    """Run or resume masked language modelling; see ``train_offline``."""
    return train_offline(job, _build_method, build_encoder)


def _build_method(job: TrainingJob, model: Any, data: PreparedData) -> Method:
    tokenizer = load_tokenizer(job.recipe.model)
    _check_lengths(model.config, data)
    masking = Masking.build(job.stage.mask, tokenizer)
    return Method(
        MaskedObjective(),
        _mask(masking, [job.recipe.seed, _TRAIN]),
        # The same tokens at every measurement, whatever the seed: losses can be compared.
        _mask(masking, [0, _VALIDATION]),
    )


def _check_lengths(config: Any, data: PreparedData) -> None:
    limit = getattr(config, "max_position_embeddings", None)
    longest = max(int(s.lengths.max()) for s in (data.train, data.validation) if len(s))
    if limit and longest > limit:
        raise ConfigError(
            f"data.block_tokens: the longest block has {longest} tokens, the model takes {limit}",
            hint=f"set data.block_tokens to {limit} or less",
        )


def _mask(masking: Masking, seed: list[int]) -> Finish:
    def finish(
        packed: dict[str, Any], examples: np.ndarray[Any, Any], number: int
    ) -> dict[str, Any]:
        return mask_batch(packed, masking, [*seed, number])

    return finish


class MaskedObjective(LanguageObjective):
    """Mean negative log-likelihood of the hidden tokens."""

    def score(self, model: Any, batch: dict[str, Any]) -> TokenScores:
        """Run the model."""
        return score_masked(model, batch)


def build_encoder(job: TrainingJob) -> Any:
    """Load an encoder for training: packed attention where it can be, adapters where asked for."""
    config = load_base_config(job.recipe.model)
    check_encoder(config, load_tokenizer(job.recipe.model), job.recipe.model.path)
    attention = begin_model(job)

    def prepare(model: Any) -> None:
        prepare_masked(model)
        prepare_tuning(job, model)

    model = load_model(
        job.recipe.model,
        attention=attention.name,
        prepare=prepare,
        train_adapter=job.recipe.tuning != "full",
        head="MaskedLM",
        **weight_format(job),
    )
    return tune(job, model, None)
