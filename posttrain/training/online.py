"""GRPO and PPO on one machine: the model in training writes the answers it learns from.

A round is: write answers to a few prompts, grade them as the evaluation would, settle advantages,
then make the round's optimizer steps on them. Steps are the trainer's; a round begins with its
first step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from posttrain.config.train import OnlineStage, PpoStage
from posttrain.data.store import ExampleStore
from posttrain.errors import ConfigError
from posttrain.generation.greedy import generate_greedy
from posttrain.grading.rewards import grade_answer
from posttrain.logs import say
from posttrain.models.load import load_tokenizer
from posttrain.models.packed import score_batch
from posttrain.runtime import world_size
from posttrain.training.data import load_data
from posttrain.training.fit import Course, fit
from posttrain.training.model import build_model
from posttrain.training.policy import (
    PolicyObjective,
    set_estimated_advantages,
    set_group_advantages,
)
from posttrain.training.rewards import Rewards
from posttrain.training.rollouts import Sample, pack_samples, split_updates, write_samples, writing
from posttrain.training.stage import TrainingJob, TrainingSummary
from posttrain.training.trainer import PackedTrainer

_VALUE_HEAD = "value_head"
_VALUE_FILE = "value_head.safetensors"
_COUNTS_FILE = "rounds.json"


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
    if world_size() > 1:
        raise ConfigError(
            f"stage `{stage.name}`: answers are written by one process here, and there are "
            f"{world_size()}",
            hint="start it without a launcher, or set engine: verl for several devices",
        )
    tokenizer = load_tokenizer(job.recipe.model)
    data = load_data(job, tokenizer)
    rewards = Rewards(stage.rewards, data.train, job.compute.device)
    model = build_model(job, value_head=isinstance(stage, PpoStage))
    reference = build_model(job).requires_grad_(False).eval() if stage.kl_weight else None
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


class _Steps(Dataset[dict[str, Any]]):
    """The optimizer steps of a stage; their batches are made when their turn comes."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"number": index}


class Rounds:
    """Makes the batches of each round, and keeps count.

    Args:
        job: The stage.
        tokenizer: The model's.
        prompts: Training prompts.
        rewards: What completions are worth.
        reference: The model that the stage starts from, where distance from it counts.
    """

    def __init__(
        self,
        job: TrainingJob,
        tokenizer: Any,
        prompts: ExampleStore,
        rewards: Rewards,
        reference: Any,
    ) -> None:
        self.stage: OnlineStage = job.stage
        self.seed = job.recipe.seed
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.rewards = rewards
        self.reference = reference
        self.metrics: dict[str, float] = {}
        self._samples: list[Sample] = []
        self._round = -1
        self._counts: list[tuple[int, int]] = []
        """Tokens, and completion tokens, up to each step."""
        if self.stage.updates_per_rollout > self.stage.prompts_per_rollout:
            raise ConfigError(
                f"stage `{self.stage.name}`: updates_per_rollout is above prompts_per_rollout",
                hint="an update needs at least one prompt's answers",
            )
        longest = int(prompts.lengths.max()) + self.stage.max_new_tokens
        if longest > self.stage.batch_tokens:
            raise ConfigError(
                f"stage `{self.stage.name}`: a prompt with its answer may have {longest} tokens, "
                f"batch_tokens is {self.stage.batch_tokens}",
                hint="raise batch_tokens, or lower max_new_tokens or data.max_tokens",
            )

    @property
    def steps_per_round(self) -> int:
        """Optimizer steps."""
        return self.stage.updates_per_rollout * self.stage.passes_per_rollout

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.stage.rollouts * self.steps_per_round

    def whole_rounds(self, steps: int) -> int:
        """Make a number of steps up to whole rounds."""
        return -(-steps // self.steps_per_round) * self.steps_per_round

    def done(self, steps: int) -> tuple[int, int, float]:
        """Tokens, completion tokens, and passes over the prompts after a number of steps."""
        tokens, trained = self._counts[steps - 1] if steps else (0, 0)
        seen = steps / self.steps_per_round * self.stage.prompts_per_rollout
        return tokens, trained, seen / len(self.prompts)

    def save(self, folder: Path) -> None:
        """Keep the counts with a checkpoint."""
        (folder / _COUNTS_FILE).write_text(json.dumps(self._counts))

    def load(self, folder: Path) -> None:
        """Take up the counts of a checkpoint."""
        self._counts = [tuple(pair) for pair in json.loads((folder / _COUNTS_FILE).read_text())]

    def batches_for(self, step: int, model: Any) -> list[dict[str, Any]]:
        """Make the batches of an optimizer step, and a new round's answers before its first."""
        number, inner = divmod(step, self.steps_per_round)
        if number != self._round:
            self._begin(number, model)
        turn, part = divmod(inner, self.stage.updates_per_rollout)
        seed = self.seed * 1_000_003 + number * 101 + turn
        update = split_updates(self._samples, self.stage.updates_per_rollout, seed)[part]
        batches = pack_samples(update, self.stage.batch_tokens)
        before = self._counts[step - 1] if step else (0, 0)
        tokens = sum(batch["input_ids"].numel() for batch in batches)
        trained = sum(len(sample.token_ids) for sample in update)
        self._counts = [*self._counts[:step], (before[0] + tokens, before[1] + trained)]
        return batches

    def choose_prompts(self, number: int) -> list[int]:
        """Examples of a round: slices of an endless row of shuffled passes."""
        count, size = self.stage.prompts_per_rollout, len(self.prompts)
        chosen = []
        for place in range(number * count, (number + 1) * count):
            turn, index = divmod(place, size)
            order = np.random.default_rng((self.seed, turn)).permutation(size)
            chosen.append(int(order[index]))
        return chosen

    def _begin(self, number: int, model: Any) -> None:
        examples = self.choose_prompts(number)
        prompts = [self.prompts.example(index)[0] for index in examples]
        written = write_samples(
            model,
            self.tokenizer,
            prompts,
            completions=self.stage.completions,
            max_new_tokens=self.stage.max_new_tokens,
            temperature=self.stage.temperature,
            seed=self.seed * 1_000_003 + number,
        )
        groups = [group for group, _ in written]
        completions = [completion for _, completion in written]
        worth, parts = self.rewards.grade(
            [prompts[group] for group in groups], completions, [examples[g] for g in groups]
        )
        self._samples = [
            Sample(prompts[group], group, completion, reward)
            for group, completion, reward in zip(groups, completions, worth, strict=True)
        ]
        self._score(model)
        if isinstance(self.stage, PpoStage):
            more = set_estimated_advantages(self._samples, self.stage)
        else:
            more = set_group_advantages(self._samples, self.stage)  # type: ignore[arg-type]
        lengths = [completion.token_count for completion in completions]
        self.metrics = {
            "reward": sum(worth) / len(worth),
            **parts,
            "completion_tokens": sum(lengths) / len(lengths),
            "unfinished": sum(not c.finished for c in completions) / len(completions),
            **more,
        }
        self._round = number

    def _score(self, model: Any) -> None:
        """Let the model that wrote the answers, and the reference, score their tokens."""
        if isinstance(self.stage, PpoStage) or self.steps_per_round > 1:
            self._score_with(model, "old_logprobs_L", "old_values_L")
        if self.reference is not None:
            self._score_with(self.reference, "reference_logprobs_L", None)

    def _score_with(self, model: Any, logprobs: str, values: str | None) -> None:
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        for batch in pack_samples(self._samples, self.stage.batch_tokens):
            lengths = [len(self._samples[i].token_ids) for i in batch["order"]]
            on_device = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            with torch.no_grad():
                scores = score_batch(model, on_device, temperature=self.stage.temperature)
            _hand_out(self._samples, batch["order"], logprobs, scores.logprobs_N.split(lengths))
            if values and scores.values_N is not None:
                _hand_out(self._samples, batch["order"], values, scores.values_N.split(lengths))
        model.train(was_training)


def _hand_out(
    samples: Sequence[Sample], order: Sequence[int], name: str, parts: Sequence[Tensor]
) -> None:
    for number, part in zip(order, parts, strict=True):
        setattr(samples[number], name, part.cpu())


class OnlineTrainer(PackedTrainer):
    """The trainer whose batches are written by the model itself; ``schedule`` is a ``Rounds``."""

    watched = "accuracy"
    apart = (f"{_VALUE_HEAD}.",)
    schedule: Rounds

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> None:
        """Nothing is known before the batches are made."""

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Make a step's batches and send each one's share of the loss backward."""
        batches = self.schedule.batches_for(self.state.global_step, self.model)
        total = sum(self.objective.weigh(batch) for batch in batches)
        losses = [super(OnlineTrainer, self).training_step(model, b, total) for b in batches]
        return torch.stack(losses).sum()

    def may_stop(self, step: int) -> bool:
        """A round is not cut: its answers are in memory only."""
        return step % self.schedule.steps_per_round == 0

    def extra_metrics(self) -> dict[str, float]:
        """Of the newest round."""
        return self.schedule.metrics

    def _describe_rows(self, inputs: dict[str, Any]) -> list[str]:
        return ["of the newest round's answers"]

    def _score_validation(self) -> dict[str, float]:
        """Let the model answer the validation prompts, and grade it as the evaluation would."""
        store: ExampleStore = self.eval_dataset
        with writing(self.model):
            completions = generate_greedy(
                self.model,
                self.processing_class,
                [store.example(index)[0].tolist() for index in range(len(store))],
                max_new_tokens=self.schedule.stage.max_new_tokens,
                batch_size=256,
            )
        right = [
            grade_answer(completion.text, note["reference"] or "")[0]
            for completion, note in zip(completions, store.notes, strict=True)
        ]
        return {"validation_accuracy": sum(right) / len(right)}

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
