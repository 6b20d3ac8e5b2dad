"""The one trainer: transformers.Trainer, taught the packed batch and atomic checkpoints.

An item of the data is one optimizer step: a list of packed batches. What happens in it, in order:
the batches are taken (`batches_of`) and their loss weights summed (`_total_weight`); each batch is
scored and its share of the loss goes backward (`_accumulate`, `compute_loss`); losses and gradients
are checked, clipped (`_clip_grad_norm`) and applied; metrics are logged (`log`), validation
measured (`evaluate`), a checkpoint written (`_save_checkpoint`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Subset
from transformers import PrinterCallback, ProgressCallback

from posttrain.logs import say
from posttrain.tracking import MetricsRecorder
from posttrain.training.batches import take_only
from posttrain.training.budget import TokenBudget, name_too_large
from posttrain.training.gauges import Gauges
from posttrain.training.guards.gradients import check_gradients, check_norm
from posttrain.training.guards.rollback import SpoiltStepError
from posttrain.training.guards.watch import Guards
from posttrain.training.interrupt import AbandonedError, StopRequest
from posttrain.training.measuring import MeasuringTrainer
from posttrain.training.objective import BatchResult, Objective
from posttrain.training.processes import any_process, average_gradients, sum_over_processes
from posttrain.training.saving import Saver
from posttrain.training.stage import Exam
from posttrain.training.watch import Clock, StepWatch, Window, describe_step


class PackedTrainer(MeasuringTrainer):
    """Trains a prepared model on packed batches.

    Args:
        model: Prepared for packed batches, as by ``models.packed.prepare_packed``.
        args: Of ``training.arguments.build_arguments``.
        optimizer: Builds the optimizer of a model.
        objective: The training method.
        dataset: The stage's optimizer steps in order; see ``batches_of``.
        schedule: What they add up to, a ``fit.Schedule``.
        validation: Batches to watch, or none.
        saver: Where checkpoints go.
        recorder: Where metrics go.
        stop: Asked after every step.
        tokenizer: Saved with every checkpoint.
        budget: Most tokens that are computed at once.
        guards: Look at every step.
        gauges: Measure how well the device is used; nothing does where absent.
        exam: Tasks that the model is measured on beside the validation.
    """

    may_vanish = False
    """Whether the first step's gradient may rightly be 0."""

    def __init__(  # noqa: PLR0913 - the parts of a training stage, built apart and joined here
        self,
        *,
        model: Any,
        args: Any,
        optimizer: Callable[[Any], Optimizer],
        objective: Objective,
        dataset: Any,
        schedule: Any,
        validation: Any,
        saver: Saver,
        recorder: MetricsRecorder,
        stop: StopRequest,
        tokenizer: Any,
        budget: TokenBudget,
        guards: Guards,
        gauges: Gauges | None = None,
        exam: Exam | None = None,
    ) -> None:
        use_cache = getattr(model.config, "use_cache", None)
        super().__init__(
            model=model,
            args=args,
            train_dataset=dataset,
            eval_dataset=validation if validation is not None else (),
            data_collator=take_only,
            processing_class=tokenizer,
            callbacks=[StepWatch(stop, saver, self._start, self.may_stop), guards],
        )
        # transformers has turned it off, and the exported config would say so for ever.
        if use_cache is not None:  # an encoder has none
            model.config.use_cache = use_cache
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        # compute_loss divides by the whole step's loss weight; nothing may divide again.
        self.model_accepts_loss_kwargs = True
        self.build_optimizer = optimizer
        self.objective = objective
        self.schedule = schedule
        self.recorder = recorder
        self.budget = budget
        self.guards = guards
        self.gauges = gauges
        self.exam = exam
        self.saver = saver
        self.stop = stop
        self.clock = Clock(recorder.seconds_before, recorder.step_seconds_before)
        self._window = Window()
        self._results: list[tuple[BatchResult, bool]] = []
        self._first_step = self._logged_step = 0

    def get_train_dataloader(self) -> Any:
        """Take the steps in the planned order; the shuffling is in the plan."""
        # A stage that has stopped early has no steps left.
        steps = range(min(self.args.max_steps, len(self.train_dataset)))
        return DataLoader(Subset(self.train_dataset, steps), collate_fn=take_only)

    def create_optimizer(self, model: Any = None) -> Any:
        """Build the optimizer that the recipe asks for."""
        if self.optimizer is None:
            self.optimizer: Any = self.build_optimizer(self.model if model is None else model)
        return self.optimizer

    def batches_of(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        """Packed batches of an optimizer step, this process's share.

        Args:
            item: Of the data set: its ``number`` and its ``batches``. One batch of a list is
                marked as ``weightless`` where another process has one more.
        """
        batches: list[dict[str, Any]] = item["batches"]
        return batches

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Send the loss of a whole optimizer step backward.

        Returns:
            The step's loss, this process's share of it times the number of processes.

        Raises:
            SpoiltStepError: The loss of a batch is NaN or infinite; nothing is applied.
        """
        batches = self.batches_of(inputs)
        if self.guards.passes_over(self.state.global_step + 1):
            return torch.zeros((), device=self.args.device)
        total = self._total_weight(batches)
        batches, losses = self.budget.spend(
            batches,
            self.state.global_step + 1,
            lambda parts: self._accumulate(model, parts, total),
            self._describe_rows,
        )
        if not self.is_deepspeed_enabled:
            average_gradients(model)
        # Every process takes part: one that went on alone would wait for the others for ever.
        if any_process(not torch.isfinite(losses).all()):
            self._refuse(batches, losses)
        self.guards.look_at_loss(self.state.global_step + 1, losses.sum(), self._describe_step)
        for result, weightless in self._results:
            self._window.add(result, weightless=weightless)
        if self.gauges:
            self.gauges.count(batches)
        return losses.sum()

    def _total_weight(self, batches: list[dict[str, Any]]) -> Tensor:
        """Sum the weights of one optimizer step over its batches and all processes."""
        weights = [float(self.objective.weigh(b)) for b in batches if "weightless" not in b]
        total = sum_over_processes({"weight": sum(weights)})["weight"]
        return torch.tensor(total, dtype=torch.float32, device=self.args.device)

    def _accumulate(self, model: Any, batches: list[dict[str, Any]], total: Tensor) -> Tensor:
        """Send each batch's share of the loss backward, from clean gradients.

        Processes meet behind it, but with DeepSpeed, which reduces gradients as they come.

        Returns:
            Loss of each batch, detached.

        Raises:
            BatchTooLargeError: Memory ran out.
        """
        self._results = []
        model.zero_grad()
        losses = []
        for number, batch in enumerate(batches, start=1):
            self.accelerator.gradient_state._set_sync_gradients(number == len(batches))
            alone = not self.is_deepspeed_enabled
            with (
                name_too_large(batch, together=not alone),
                self.accelerator.no_sync(model) if alone else contextlib.nullcontext(),
            ):
                losses.append(super().training_step(model, batch, total))
        return torch.stack(losses)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Loss of one batch as its share of the step's mean loss per unit of weight."""
        result = self.objective.measure(model, inputs, num_items_in_batch)
        weightless = "weightless" in inputs
        self._results.append((result, weightless))
        # Gradients are averaged over processes; the sum is wanted.
        return result.loss * (0.0 if weightless else self.args.world_size)

    def _refuse(self, batches: list[dict[str, Any]], losses: Tensor) -> None:
        """Name the first batch whose loss is not finite; or the whole step, of another process.

        Raises:
            SpoiltStepError: Always.
        """
        found = (~torch.isfinite(losses)).nonzero()
        if len(found):
            what = f"is {float(losses[int(found[0])])}"
            rows = self._describe_rows(batches[int(found[0])])
        else:
            what, rows = "in another process is not finite", self._describe_step()
        raise SpoiltStepError(
            self.state.global_step + 1,
            f"the loss of a batch {what}; no update was applied",
            rows,
        )

    def _describe_rows(self, inputs: dict[str, Any]) -> list[str]:
        """Where the rows of a batch were read."""
        rows: list[str] = self.train_dataset.batches.origins(inputs["number"])
        return [rows[tree] for tree in inputs["trees"]] if "trees" in inputs else rows

    def _describe_step(self) -> list[str]:
        """Where the rows of the step at hand were read, those of all processes."""
        rows: list[str] = self.train_dataset.origins(self.state.global_step)
        return rows

    def may_stop(self, step: int) -> bool:
        """Whether a run that is asked to stop can be taken up again from this step."""
        return True

    def extra_metrics(self) -> dict[str, float]:
        """What else belongs into a line of metrics."""
        return {}

    def write_extras(self, folder: Path) -> None:
        """Write what a method needs besides to go on from a checkpoint."""

    def _clip_grad_norm(self, model: Any) -> Any:
        """Refuse gradients that are not finite, before clipping makes them all so."""
        step, rows = self.state.global_step, self._describe_step
        if self.guards.passes_over(step + 1):
            return torch.zeros(())
        if not self.is_deepspeed_enabled:
            norm = check_gradients(self.model, step, may_vanish=self.may_vanish, rows=rows)
            self.guards.look_at_gradients(self.model, step, norm)
            parameters = [p for p in model.parameters() if p.grad is not None]
            clip_grads_with_norm_(parameters, self.args.max_grad_norm, norm)
            return norm
        # DeepSpeed has shared the gradients out and made its step already; its norm tells.
        norm = super()._clip_grad_norm(model)
        check_norm(norm, step, rows)
        self.guards.look_at_gradients(None, step, norm)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record training metrics and say how far the run is."""
        if "loss" not in logs:  # transformers' own end-of-run summary
            return
        step = self.state.global_step
        steps_before, self._logged_step = self._logged_step, step
        taken = self.guards.rollbacks.count_taken(steps_before, step)
        if not taken:
            return
        logs["loss"] *= (step - steps_before) / taken  # that of a skipped step counts as 0
        before, done = self.schedule.done(steps_before), self.schedule.done(step)
        window, self._window = self._window, Window()
        seconds = self.clock.lap()
        values = {
            "epoch": done.epochs,
            **window.means(),
            **self.extra_metrics(),
            **self._perplexity(logs["loss"]),
            **(self.gauges.read(seconds) if self.gauges else {}),
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", 0.0),
            "tokens": done.tokens,
            "trained_tokens": done.trained_tokens,
            "tokens_per_second": (done.tokens - before.tokens) / seconds,
            "trained_tokens_per_second": (done.trained_tokens - before.trained_tokens) / seconds,
            "examples_per_second": (done.examples - before.examples) / seconds,
            "seconds": self.clock.total_seconds,
            "step_seconds": self.clock.total_step_seconds,
        }
        self.recorder.record(step, values)
        self.guards.look_at_metrics(step, values)
        self.state.log_history.append({"step": step, "loss": logs["loss"]})
        per_step = self.clock.seconds / max(step - self._first_step, 1)
        left = per_step * (self.state.max_steps - step)
        say(f"step {step}/{self.state.max_steps}  {describe_step(values, left)}")

    @property
    def logged_losses(self) -> list[float]:
        """Loss of every log line of the stage, those before a resume included."""
        return [line["loss"] for line in self.state.log_history]

    def _start(self) -> None:
        """Measure time and speed from here, and what a stop had cut off."""
        self.clock.start()
        self._first_step = self._logged_step = self.state.global_step
        self._window = Window()
        step, last = self.state.global_step, self.state.max_steps
        measured = bool(self.eval_dataset) or self.exam is not None
        if measured and step and (step % self.args.eval_steps == 0 or step == last):
            self._validate()
            if self.control.should_training_stop:  # transformers would do one more step
                raise AbandonedError
        if self.guards.stage.rolls_back and self.guards.found.path is None:
            self._save_checkpoint(self.model_wrapped, None)  # there must be one to go back to

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write weights, optimizer, schedule, random state and trainer state, all or nothing."""
        with self.clock.pause():
            self.saver.save(self.state.global_step, self._write_state)

    def _write_state(self, folder: Path) -> None:
        self.write_model(folder)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        if self.args.should_save:
            self._save_scaler(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))
            self.guards.save(folder)
            self.write_extras(folder)

    def save_abandoned(self) -> None:
        """Write a checkpoint of the last whole step, when the one after it was given up."""
        if self.state.global_step:
            self._save_checkpoint(self.model, None)
