"""What is watched while a run trains: time, sums of metrics between log lines, when to stop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from posttrain.logs import format_duration
from posttrain.training.interrupt import StopRequest
from posttrain.training.objective import BatchResult
from posttrain.training.processes import any_process, sum_over_processes
from posttrain.training.saving import Saver

_WEIGHT = "(weight)"


@dataclass
class Clock:
    """Time of this process since its first step, and of the interrupted attempts before it."""

    seconds_before: float
    """All of the attempts' time that is kept."""
    step_seconds_before: float
    """The same without validation and checkpoints."""
    _started: float = field(default_factory=time.perf_counter)
    _paused: float = 0.0
    _lapped: float = 0.0

    def start(self) -> None:
        """Measure from here."""
        self._started, self._paused, self._lapped = time.perf_counter(), 0.0, 0.0

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave what is done inside the block out of the time for steps."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """Since the first step of this process, all included."""
        return time.perf_counter() - self._started

    @property
    def total_seconds(self) -> float:
        """Of the whole stage, all included."""
        return self.seconds_before + self.seconds

    @property
    def total_step_seconds(self) -> float:
        """Of the whole stage, without validation and checkpoints."""
        return self.step_seconds_before + self.seconds - self._paused

    def lap(self) -> float:
        """Seconds for steps since the last call, or the start; above 0."""
        before, self._lapped = self._lapped, self.seconds - self._paused
        return max(self._lapped - before, 1e-9)


@dataclass
class Window:
    """Sums over the batches since the last log line; on the device, so that nothing waits."""

    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, result: BatchResult, *, weightless: bool = False) -> None:
        """Take in a batch; of one without weight only the names, which all processes must share."""
        share = 0.0 if weightless else 1.0
        for name, total in {**result.sums, _WEIGHT: result.weight}.items():
            self.sums[name] = self.sums.get(name, 0.0) + share * total.detach().double()

    def means(self) -> dict[str, float]:
        """Mean of every metric per unit of weight, over all processes."""
        sums = sum_over_processes({name: float(total) for name, total in self.sums.items()})
        weight = sums.pop(_WEIGHT, 0.0)
        return {name: total / max(weight, 1e-9) for name, total in sums.items()}


# Metrics worth a place on the terminal line, of whichever method has them.
_SHOWN = {
    "loss": "loss {:.4f}",
    "token_accuracy": "token accuracy {:.1%}",
    "pair_accuracy": "pair accuracy {:.1%}",
    "reward": "reward {:.3f}",
    "accuracy": "accuracy {:.1%}",
    "completion_tokens": "{:.0f} tokens an answer",
}


def describe_metrics(values: dict[str, float]) -> str:
    """Write the main metrics of a log line."""
    shown = [form.format(values[name]) for name, form in _SHOWN.items() if name in values]
    return "".join(f"{text}  " for text in shown)


def describe_step(values: dict[str, float], seconds_left: float) -> str:
    """Write a log line of training."""
    return (
        f"epoch {values['epoch']:.2f}  {describe_metrics(values)}"
        f"lr {values['learning_rate']:.2e}  grad {values['grad_norm']:.2f}  "
        f"{values['tokens_per_second']:,.0f} tokens/s  {format_duration(seconds_left)} left"
    )


class StepWatch(TrainerCallback):
    """Starts the clock, logs the last step, saves by the clock, and stops a run that was asked to.

    Args:
        stop: Set by a signal.
        saver: Knows when a checkpoint is due.
        start: Called when the first step is about to begin.
        may_stop: Whether a run can be taken up again from a step.
    """

    def __init__(
        self,
        stop: StopRequest,
        saver: Saver,
        start: Callable[[], None],
        may_stop: Callable[[int], bool],
    ) -> None:
        self.stop = stop
        self.saver = saver
        self.start = start
        self.may_stop = may_stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock, and take the rhythm of this command rather than the checkpoint's."""
        state.save_steps, state.eval_steps = args.save_steps, args.eval_steps
        state.logging_steps = args.logging_steps
        self.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Save and end training where that was asked for; log the last step and each saved one.

        A resumed run's log lines then average over the same steps as those of an unbroken run.
        """
        may_stop = self.may_stop(state.global_step)
        # All must save and stop at the same step, and a signal reaches each at another moment.
        stopping = any_process(bool(self.stop)) and may_stop
        if any_process(self.saver.is_due) and may_stop:
            control.should_save = True
        if stopping or control.should_save or state.global_step >= state.max_steps:
            control.should_log = True
        if stopping:
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """End training here where it was asked for while the checkpoint was written."""
        if any_process(bool(self.stop)) and self.may_stop(state.global_step):
            control.should_training_stop = True
        return control
