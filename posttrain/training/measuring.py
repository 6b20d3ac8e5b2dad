"""The part of the trainer that measures the model between steps, on held-out rows and on tasks."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch

from posttrain.logs import say
from posttrain.tracking import MetricsRecorder
from posttrain.training.guards.watch import Guards
from posttrain.training.interrupt import AbandonedError, StopRequest
from posttrain.training.model_files import ModelFiles
from posttrain.training.objective import LanguageObjective, Objective
from posttrain.training.processes import StepBatches, any_process
from posttrain.training.stage import Exam
from posttrain.training.watch import Clock, Window, describe_metrics


class MeasuringTrainer(ModelFiles):
    """Measures validation and tasks at checkpoints; notes what makes one the best."""

    objective: Objective
    recorder: MetricsRecorder
    guards: Guards
    stop: StopRequest
    clock: Clock
    exam: Exam | None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the validation loss and every other metric, per unit of weight.

        A run that shall stop does not wait for it: it is measured when the run goes on.
        """
        try:
            self._validate()
        except AbandonedError:
            say("validation is left for the next start")
            self.control.should_save = self.control.should_training_stop = True
        return {}

    def _validate(self) -> None:
        step = self.state.global_step
        if self.saver.validated and self.saver.validated[0] == step:
            return  # transformers asks once more when the last step is done
        with self.clock.pause():
            values = self._score_validation() if self.eval_dataset else {}
            values |= self._sit_exam()
        if not values:
            return
        self.recorder.record(step, values)
        means = {name.removeprefix("validation_"): value for name, value in values.items()}
        if self.eval_dataset:
            shown = describe_metrics(means).rstrip()
            say(f"step {step}/{self.state.max_steps}  validation  {shown}")
        self.saver.note(step, means)
        if self.guards.look_at_validation(step, means):
            self.control.should_training_stop = True

    def _sit_exam(self) -> dict[str, float]:
        """Let the model do its tasks where these are due."""
        step = self.state.global_step
        state, every = self.state, int(self.args.save_steps)
        if self.exam is None or not self.exam.is_due(step, state.max_steps, every):
            return {}

        def check() -> None:
            if any_process(bool(self.stop)):
                raise AbandonedError

        # Of several processes none may leave alone: the others would wait for it.
        alone = self.args.world_size == 1
        cutting = self.stop.cutting() if alone else contextlib.nullcontext()
        with cutting, self.accelerator.autocast():
            return self.exam.measure(self.model, step, check)

    def _score_validation(self) -> dict[str, float]:
        model = self.model_wrapped if self.is_deepspeed_enabled else self.model
        model.eval()
        window = Window()
        steps = StepBatches(self.eval_dataset, 1, self.args.process_index, self.args.world_size)
        with torch.no_grad(), self.accelerator.autocast():
            for number in range(len(steps)):
                if any_process(bool(self.stop)):
                    raise AbandonedError
                batch = self._prepare_inputs(steps[number]["batches"][0])
                one = torch.ones((), device=batch["input_ids"].device)
                result = self.objective.measure(model, batch, one)
                window.add(result, weightless="weightless" in batch)
        means = window.means()
        means |= self._perplexity(means["loss"]) if "loss" in means else {}
        return {f"validation_{name}": value for name, value in means.items()}

    def _perplexity(self, loss: float) -> dict[str, float]:
        """Of methods whose loss is a mean negative log-likelihood per token."""
        if not isinstance(self.objective, LanguageObjective):
            return {}
        return {"perplexity": math.exp(min(loss, 700.0))}
