"""The rounds of GRPO and PPO: answers are written, graded and scored, then dealt to updates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.config.train import GrpoStage, PpoStage
from posttrain.data.store import ExampleStore
from posttrain.errors import VerificationError
from posttrain.logs import say
from posttrain.models.packed import score_batch
from posttrain.training.batches import Done
from posttrain.training.guards.policy import check_logprobs
from posttrain.training.policy import set_estimated_advantages, set_group_advantages
from posttrain.training.rewards import Rewards
from posttrain.training.rollouts import Sample, pack_samples, split_updates, write_samples
from posttrain.training.stage import TrainingJob

_COUNTS_FILE = "rounds.json"


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
        self.stage: GrpoStage | PpoStage = job.stage
        self.seed = job.recipe.seed
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.rewards = rewards
        self.reference = reference
        self._samples: list[Sample] = []
        self._round = -1
        self._counts: list[tuple[int, int]] = []
        """Tokens, and completion tokens, up to each step."""
        self._taught = False
        """Whether rewards have told one answer from another so far."""
        self._untold: list[dict[str, float]] = []
        """Metrics of the rounds since the last log line."""
        self._newest: dict[str, float] = {}

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

    def done(self, steps: int) -> Done:
        """What is behind after a number of optimizer steps; an example is an answer."""
        tokens, trained = self._counts[steps - 1] if steps else (0, 0)
        prompts = steps / self.steps_per_round * self.stage.prompts_per_rollout
        passes = prompts / len(self.prompts.epoch(0))
        return Done(steps, tokens, trained, passes, round(prompts * self.stage.completions))

    def save(self, folder: Path) -> None:
        """Keep the counts with a checkpoint."""
        kept = {"counts": self._counts, "taught": self._taught}
        (folder / _COUNTS_FILE).write_text(json.dumps(kept))

    def load(self, folder: Path) -> None:
        """Take up the counts of a checkpoint."""
        kept = json.loads((folder / _COUNTS_FILE).read_text())
        self._counts = [tuple(pair) for pair in kept["counts"]]
        self._taught = kept["taught"]
        self._round = -1  # its answers were those of other weights
        self._untold, self._newest = [], {}  # of what is done again after a rollback

    def origins(self, step: int) -> list[str]:
        """Where the prompts of a step's round were read."""
        chosen = self.choose_prompts(step // self.steps_per_round)
        return [str(self.prompts.origin(index)) for index in chosen]

    def tell(self) -> dict[str, float]:
        """Mean metrics of the rounds begun since the last call, or those of the newest."""
        rounds, self._untold = self._untold or [self._newest], []
        return {name: sum(r[name] for r in rounds) / len(rounds) for name in self._newest}

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
        count, size = self.stage.prompts_per_rollout, len(self.prompts.epoch(0))
        places = range(number * count, (number + 1) * count)
        orders = {turn: self._order(turn) for turn in {place // size for place in places}}
        return [int(orders[place // size][place % size]) for place in places]

    def _order(self, turn: int) -> Any:
        """Prompts of one pass; what a mixture draws is in an order already."""
        if self.prompts.mixture:
            return self.prompts.mixture.draw(turn)
        return np.random.default_rng((self.seed, turn)).permutation(len(self.prompts))

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
        self._score(model, number * self.steps_per_round + 1)
        if isinstance(self.stage, PpoStage):
            more = set_estimated_advantages(self._samples, self.stage)
            teaches = len(worth) == 1 or len(set(worth)) > 1
        else:
            more = set_group_advantages(self._samples, self.stage)
            teaches = more["equal_groups"] < 1
        self._check_taught(number, teaches)
        lengths = [completion.token_count for completion in completions]
        self._newest = {
            "reward": sum(worth) / len(worth),
            **parts,
            "completion_tokens": sum(lengths) / len(lengths),
            "unfinished": sum(not c.finished for c in completions) / len(completions),
            **more,
        }
        self._untold.append(self._newest)
        self._round = number

    def _check_taught(self, number: int, teaches: bool) -> None:
        """Let a round pass in which all answers are worth the same, but not a stage of them.

        Raises:
            VerificationError: It is the last round, and no earlier one taught anything.
        """
        self._taught |= teaches
        if self._taught:
            return
        if number + 1 == self.stage.rollouts:
            raise VerificationError(
                f"stage `{self.stage.name}`: in none of {number + 1} rounds was one answer worth "
                "more than another; nothing can be learned so",
                hint="take prompts that the model sometimes answers right, fine-tune it first, or "
                "raise completions or temperature",
            )
        if number == 0:
            say("round 1: all answers are worth the same; nothing to learn from in this round")

    def _score(self, model: Any, step: int) -> None:
        """Let the model that wrote the answers, and the reference, score their tokens."""
        if isinstance(self.stage, PpoStage) or self.steps_per_round > 1:
            self._score_with(model, step, "old_logprobs_L", "old_values_L")
        if self.reference is not None:
            self._score_with(self.reference, step, "reference_logprobs_L", None)

    def _score_with(self, model: Any, step: int, logprobs: str, values: str | None) -> None:
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        for batch in pack_samples(self._samples, self.stage.batch_tokens):
            lengths = [len(self._samples[i].token_ids) for i in batch["order"]]
            on_device = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            with torch.no_grad():
                scores = score_batch(model, on_device, temperature=self.stage.temperature)
            check_logprobs(scores.logprobs_N, step, self.origins(step - 1))
            _hand_out(self._samples, batch["order"], logprobs, scores.logprobs_N.split(lengths))
            if values and scores.values_N is not None:
                _hand_out(self._samples, batch["order"], values, scores.values_N.split(lengths))
        model.train(was_training)


def _hand_out(
    samples: Sequence[Sample], order: Sequence[int], name: str, parts: Sequence[Tensor]
) -> None:
    for number, part in zip(order, parts, strict=True):
        setattr(samples[number], name, part.cpu())
