"""GRPO and PPO on one machine: the model in training writes the answers it learns from.

A round is: write answers to a few prompts, grade them as the evaluation would, settle advantages,
then make the round's optimizer steps on them. Steps are the trainer's; a round begins with its
first step.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from posttrain.config.train import PpoStage
from posttrain.data.store import ExampleStore
from posttrain.errors import ConfigError
from posttrain.generation.generator import GenerationOptions, write_all
from posttrain.generation.local import TransformersGenerator, build_requests
from posttrain.logs import say
from posttrain.models.load import load_tokenizer
from posttrain.runtime import world_size
from posttrain.training.data import load_data
from posttrain.training.fit import Course, fit
from posttrain.training.guards.policy import check_sampler
from posttrain.training.lending import lend
from posttrain.training.model import build_model
from posttrain.training.policy import PolicyObjective
from posttrain.training.rewards import Rewards
from posttrain.training.rollouts import SIDE_BY_SIDE, check_room
from posttrain.training.rounds import Rounds
from posttrain.training.stage import TrainingJob, TrainingSummary
from posttrain.training.trainer import PackedTrainer

_VALUE_HEAD = "value_head"
_VALUE_FILE = "value_head.safetensors"


def train_online(job: TrainingJob) -> TrainingSummary:
    """Run or resume GRPO or PPO; the model ends up in ``job.final``.

    Args:
        job: The stage with everything it needs.

    Returns:
        Figures of the run.

    Raises:
        PosttrainError: Any of its kinds; an interruption after saving is one.
    """
    stage = job.stage
    _check_alone(job)
    tokenizer = load_tokenizer(job.recipe.model)
    data = load_data(job, tokenizer)
    check_room(stage, data.train)
    rewards = Rewards(stage.rewards, data.train, tokenizer, job.compute.device)
    model = build_model(job, value_head=isinstance(stage, PpoStage))
    reference = _build_reference(job) if stage.kl_weight else None
    rounds = Rounds(job, tokenizer, data.train, rewards, reference)
    course = Course(
        PolicyObjective(stage),
        _Steps(rounds.steps),
        rounds,
        data.validation if len(data.validation) else None,
        f"{stage.rollouts:,} rounds of {stage.prompts_per_rollout:,} prompts x "
        f"{stage.completions:,} answers",
        rounds.whole_rounds(stage.save_every_steps),
    )
    return fit(job, model, tokenizer, course, OnlineTrainer)


def _check_alone(job: TrainingJob) -> None:
    """Refuse several processes and DeepSpeed.

    Raises:
        ConfigError: Says which.
    """
    parallel = job.recipe.parallel
    hint = "start it without a launcher, or set engine: verl for several devices"
    if world_size() > 1:
        raise ConfigError(
            f"stage `{job.stage.name}`: answers are written by one process here, and there are "
            f"{world_size()}",
            hint=hint,
        )
    if parallel.strategy != "ddp" or parallel.deepspeed is not None:
        raise ConfigError(
            f"stage `{job.stage.name}`: answers are not written with DeepSpeed here "
            f"(parallel.strategy: {parallel.strategy})",
            hint=hint,
        )


def _build_reference(job: TrainingJob) -> Any:
    """Load the model that the stage starts from once more, to stay as it is."""
    model = build_model(job).requires_grad_(False).eval()
    quantized = getattr(model, "is_quantized", False)  # and on its device already
    return model if quantized else model.to(job.compute.device)


class _Steps(Dataset[dict[str, Any]]):
    """The optimizer steps of a stage; their batches are made when their turn comes."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"number": index}


class OnlineTrainer(PackedTrainer):
    """The trainer whose batches are written by the model itself; ``schedule`` is a ``Rounds``."""

    may_vanish = True
    apart = (f"{_VALUE_HEAD}.",)
    schedule: Rounds

    def batches_of(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        """Make a step's batches; a new round's answers are written before its first."""
        begins = self.may_stop(self.state.global_step)
        cutting = self.stop.cutting() if begins else contextlib.nullcontext()
        # What is compared with the scores in training must be computed in the same precision.
        with cutting, self.accelerator.autocast():
            return self.schedule.batches_for(self.state.global_step, self.model)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Send a step's loss backward; its answers must be those of the model in training."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        sums = [result.sums | {"weight": result.weight} for result, _ in self._results]
        if sums and "sampler_gap" in sums[0]:
            gap, weight = (sum(float(s[n]) for s in sums) for n in ("sampler_gap", "weight"))
            tolerance = self.schedule.stage.sampler_tolerance
            check_sampler(gap / weight, tolerance, self.state.global_step + 1)
        return loss

    def may_stop(self, step: int) -> bool:
        """A round is not cut: its answers are in memory only."""
        return step % self.schedule.steps_per_round == 0

    def extra_metrics(self) -> dict[str, float]:
        """Of the rounds since the last line."""
        return self.schedule.tell()

    def _describe_rows(self, inputs: dict[str, Any]) -> list[str]:
        return self._describe_step()

    def _describe_step(self) -> list[str]:
        """Where the prompts of the step's round were read."""
        return self.schedule.origins(self.state.global_step)

    def _score_validation(self) -> dict[str, float]:
        """Let the model answer the validation prompts, and grade it as the evaluation would."""
        store: ExampleStore = self.eval_dataset
        numbers = range(len(store))
        prompts = [store.example(index)[0] for index in numbers]
        with self.stop.cutting(), lend(self.model, writing=True), self.accelerator.autocast():
            completions = write_all(
                TransformersGenerator(self.model, self.processing_class, batch_size=SIDE_BY_SIDE),
                build_requests([prompt.tolist() for prompt in prompts]),
                GenerationOptions(self.schedule.stage.max_new_tokens),
                whole=True,
            )
            worth, parts = self.schedule.rewards.over(store).grade(prompts, completions, numbers)
        values = {"validation_reward": sum(worth) / len(worth)}
        if "reward_answer" in parts:
            values["validation_accuracy"] = parts["reward_answer"]
        return values

    def write_extras(self, folder: Path) -> None:
        """Write the counts of the rounds, and the value head."""
        self.schedule.save(folder)
        if (head := getattr(self.model, _VALUE_HEAD, None)) is not None:
            save_file(
                {k: v.contiguous() for k, v in head.state_dict().items()}, folder / _VALUE_FILE
            )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Keep the value head apart from the weights that others load."""
        head = getattr(self.model, _VALUE_HEAD, None)
        if head is not None and state_dict is None and not hasattr(self.model, "peft_config"):
            whole = self.model.state_dict()
            state_dict = {k: v for k, v in whole.items() if not k.startswith(self.apart)}
        super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.schedule.load(Path(resume_from_checkpoint))
        if (head := getattr(self.model, _VALUE_HEAD, None)) is not None:
            head.load_state_dict(load_file(Path(resume_from_checkpoint) / _VALUE_FILE))
            say("value head: taken up from the checkpoint")
