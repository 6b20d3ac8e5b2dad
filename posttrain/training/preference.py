"""Direct preference optimization: prompts once, both answers as their children.

The reference is the model that the stage starts from. Its log-probabilities are all that is needed
of it, so they are computed once, before the first step, and no second model is held.

Letters: P pairs of a batch, N scored tokens, S = 3 P segments: prompt, chosen, rejected.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from posttrain.config.train import DpoStage
from posttrain.data.prepare import PreparedData
from posttrain.data.store import ExampleStore
from posttrain.errors import VerificationError
from posttrain.files import digest_json, load_json, publish_folder, write_json
from posttrain.logs import Progress, format_duration, say
from posttrain.models.packed import score_batch
from posttrain.objectives.preference import dpo_loss, hinge_loss, ipo_loss
from posttrain.training.batches import Finish, PlannedBatches
from posttrain.training.objective import BatchResult
from posttrain.training.offline import Method, plan_once, train_offline
from posttrain.training.stage import TrainingJob, TrainingSummary


def train_dpo(job: TrainingJob) -> TrainingSummary:
    """Run or resume direct preference optimization; see ``train_offline``."""
    return train_offline(job, _build_method)


def _build_method(job: TrainingJob, model: Any, data: PreparedData) -> Method:
    train_E2, validation_E2 = load_reference(job, model, data)
    check_reference(job, model, data.train, train_E2)
    return Method(PreferenceObjective(job.stage), _add(train_E2), _add(validation_E2))


def _add(reference_E2: np.ndarray[Any, Any]) -> Finish:
    """Put the reference's log-probabilities beside each batch of pairs."""

    def finish(
        packed: dict[str, Any], examples: np.ndarray[Any, Any], number: int
    ) -> dict[str, Any]:
        return {**packed, "reference_logprobs": reference_E2[examples]}

    return finish


class PreferenceObjective:
    """A loss of the DPO family, mean over pairs.

    Args:
        stage: Which loss, and its settings.
    """

    def __init__(self, stage: DpoStage) -> None:
        self.stage = stage

    def weigh(self, batch: dict[str, Any]) -> Tensor:
        """Pairs."""
        reference_P2: Tensor = batch["reference_logprobs"]
        return reference_P2.new_tensor(len(reference_P2))

    def measure(self, model: Any, batch: dict[str, Any], total_weight: Tensor) -> BatchResult:
        """Score both answers of every pair."""
        logprobs_P2, tokens_P2 = score_answers(model, batch)
        reference_P2 = batch["reference_logprobs"]
        loss_P = self._loss(logprobs_P2, reference_P2, tokens_P2)
        if self.stage.sft_weight:
            # Per token, so that long answers do not rule: Pang et al. 2024, arXiv:2404.19733.
            nll_P = -logprobs_P2[:, 0] / tokens_P2[:, 0]
            loss_P = loss_P + self.stage.sft_weight * nll_P
        with torch.no_grad():
            ratios_P2 = logprobs_P2 - reference_P2
            margin_P = self.stage.beta * (ratios_P2[:, 0] - ratios_P2[:, 1])
            sums = {
                "loss": loss_P.detach().sum(),
                "pair_accuracy": (margin_P > 0).float().sum(),
                "margin": margin_P.sum(),
                "chosen_log_ratio": ratios_P2[:, 0].sum(),
                "rejected_log_ratio": ratios_P2[:, 1].sum(),
            }
        return BatchResult(loss_P.sum() / total_weight, sums, self.weigh(batch))

    def _loss(self, logprobs_P2: Tensor, reference_P2: Tensor, tokens_P2: Tensor) -> Tensor:
        stage = self.stage
        if stage.loss == "ipo":
            logprobs_P2, reference_P2 = logprobs_P2 / tokens_P2, reference_P2 / tokens_P2
        policy_P, fixed_P = (x[:, 0] - x[:, 1] for x in (logprobs_P2, reference_P2))
        if stage.loss == "sigmoid":
            smoothing = stage.label_smoothing
            return dpo_loss(policy_P, fixed_P, beta=stage.beta, label_smoothing=smoothing)
        loss = ipo_loss if stage.loss == "ipo" else hinge_loss
        return loss(policy_P, fixed_P, beta=stage.beta)


def score_answers(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Log-probability and length of both answers of every pair.

    Args:
        model: Prepared for packed batches.
        batch: Of examples that ``data.encode_pairs`` has made.

    Returns:
        Sums over each answer's tokens, nats, and their number; both [P, 2], chosen first.
    """
    scores = score_batch(model, batch)
    segments_N = batch["score_segments"]
    count = len(batch["segments"].lengths)
    logprobs_S = scores.logprobs_N.new_zeros(count).index_add(0, segments_N, scores.logprobs_N)
    tokens_S = torch.bincount(segments_N, minlength=count).float()
    return logprobs_S.view(-1, 3)[:, 1:], tokens_S.view(-1, 3)[:, 1:]


def load_reference(
    job: TrainingJob, model: Any, data: PreparedData
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Take the reference's log-probabilities from the stage's folder, or compute them.

    Args:
        job: The stage.
        model: The model that it starts from; fresh adapters change nothing yet.
        data: Encoded pairs.

    Returns:
        Of the training and of the validation pairs, [examples, 2] float32 each, chosen first.
    """
    folder = job.folder / "reference"
    settings = [data.digest, job.compute.precision, job.stage.batch_tokens]
    key = {"of": digest_json([*settings, _digest_weights(model)])}
    parts = {"train": data.train, "validation": data.validation}
    # One process computes, the others wait outside of any collective; the lock dies with it.
    with FileLock(job.folder / ".reference.lock"):
        if not _is_of(folder, key):
            _compute_reference(job, model, parts, key)
    train_E2, validation_E2 = (np.load(folder / f"{n}.npy", allow_pickle=False) for n in parts)
    return train_E2, validation_E2


def _compute_reference(
    job: TrainingJob, model: Any, parts: dict[str, ExampleStore], key: dict[str, str]
) -> None:
    started = time.perf_counter()
    model.eval().to(job.compute.device)
    found = {name: _score_store(job, model, store) for name, store in parts.items()}
    with publish_folder(job.folder / "reference") as building:
        for name, array in found.items():
            np.save(building / f"{name}.npy", array, allow_pickle=False)
        write_json(building / "key.json", key)
    pairs = sum(len(store) for store in parts.values())
    seconds = format_duration(time.perf_counter() - started)
    say(f"reference: {pairs:,} pairs scored with the starting model in {seconds}")


def _is_of(folder: Path, key: dict[str, str]) -> bool:
    path = folder / "key.json"
    return path.is_file() and load_json(path) == key


def _digest_weights(model: Any) -> str:
    """Digest of every weight: numbers of another starting model must never be taken."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _score_store(job: TrainingJob, model: Any, store: ExampleStore) -> np.ndarray[Any, Any]:
    found_E2: np.ndarray[Any, Any] = np.zeros((len(store), 2), dtype=np.float32)
    if not len(store):
        return found_E2
    batches = PlannedBatches(store, plan_once(job, store))
    progress = Progress("scoring with the reference", len(batches), "batches")
    for number, examples in enumerate(batches.batches):
        found_E2[examples] = _score(job, model, batches[number])[0]
        progress.update(number)
    return found_E2


def check_reference(
    job: TrainingJob, model: Any, store: ExampleStore, reference_E2: np.ndarray[Any, Any]
) -> None:
    """Refuse a reference that the model does not start from: its first ratios must be 1.

    Args:
        job: The stage.
        model: Before its first step.
        store: Training pairs.
        reference_E2: Log-probabilities of the reference, [examples, 2], nats.

    Raises:
        VerificationError: A pair of the first batch is scored differently.
    """
    model.eval().to(job.compute.device)
    batches = PlannedBatches(store, plan_once(job, store)[:1])
    logprobs_P2, tokens_P2 = _score(job, model, batches[0])
    gaps_P = (np.abs(logprobs_P2 - reference_E2[batches.batches[0]]) / tokens_P2).max(axis=1)
    tolerance = _TOLERANCES[job.compute.precision]
    if not gaps_P.max() <= tolerance:  # NaN too
        worst = batches.origins(0)[int(np.nan_to_num(gaps_P, nan=np.inf).argmax())]
        raise VerificationError(
            f"{worst}: before the first step, model and reference differ by {gaps_P.max():.3g} "
            f"nats per token (at most {tolerance:g}); they should be the same model",
            hint=f"delete {job.folder / 'reference'} to score the pairs anew",
        )


# Of the mean per token: what differently packed batches may change, by number format.
_TOLERANCES = {"fp32": 1e-3, "bf16": 5e-2}


def _score(
    job: TrainingJob, model: Any, packed: dict[str, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Score a batch without learning from it; see ``score_answers``."""
    device = job.compute.device
    bf16 = job.compute.precision == "bf16"
    batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in packed.items()}
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        logprobs_P2, tokens_P2 = score_answers(model, batch)
    return logprobs_P2.float().cpu().numpy(), tokens_P2.cpu().numpy()
