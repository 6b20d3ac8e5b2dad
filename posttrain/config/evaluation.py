"""What is measured, on which problems."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from posttrain.config.base import Config, StageName
from posttrain.config.data import SourceConfig
from posttrain.config.items import ItemChecks

ModelNeed = Literal["generate", "score", "nothing"]
"""What a task asks of a model: to write answers, to score given text, or nothing."""


class BaseTask(Config):
    """What all tasks share."""

    name: StageName | None = None
    """Folder of the results; the task's own name where absent."""
    data: SourceConfig
    """The problems with their reference answers."""

    @property
    def kind(self) -> str:
        """The task's own name."""
        return str(getattr(self, "task", ""))

    @property
    def label(self) -> str:
        """Name of the results' folder."""
        return self.name or self.kind

    @property
    def needs(self) -> ModelNeed:
        """How the model must be loaded."""
        return "generate"


class AnswerTask(BaseTask):
    """What tasks share whose answers are written by the model."""

    system: str | None = None
    """System turn before each problem."""
    max_new_tokens: PositiveInt = 256
    """Longest answer."""
    batch_size: PositiveInt = 64
    """Answers written side by side."""


class ReasoningTask(AnswerTask):
    """What tasks share whose answers may be reasoned out before they are given."""

    cot: bool | None = None
    """`true` asks for reasoning before the answer, `false` for the answer alone; the problem stands
    by itself where absent (of `mcq`, with the request for a letter)."""


class Gsm8kTask(ReasoningTask):
    """Word problems with a number as answer: exact numeric equality."""

    task: Literal["gsm8k"]
    """Exact numeric equality of the final answer."""


class MathTask(ReasoningTask):
    """Problems in the shape of MATH: equal formulas, judged by math-verify (extra `math`)."""

    task: Literal["math"]
    """Equality of formulas, in rows {problem, solution or answer, level, subject}."""
    max_new_tokens: PositiveInt = 1024
    """Longest answer."""
    grader_seconds: PositiveFloat = 10.0
    """Longest time for one comparison; beyond it the error class is `grader_timeout`."""


class McqTask(ReasoningTask):
    """Multiple choice."""

    task: Literal["mcq"]
    """One of several options, in rows of AGIEval, ARC, or {question, options, answer}."""
    method: Literal["letter", "likelihood"] = "letter"
    """`letter`: the model writes a letter; `likelihood`: the option that it finds most likely."""
    context: Literal["chat", "text"] = "chat"
    """Of `likelihood`: the question as a user turn, or as plain text before `Answer:`, for models
    without a chat template."""
    normalize: Literal["bytes", "none"] = "bytes"
    """Of `likelihood`: which score decides, log-probability per byte of the option or its sum."""
    batch_tokens: PositiveInt = 4096
    """Of `likelihood`: tokens scored side by side."""

    @property
    def needs(self) -> ModelNeed:
        """How the model must be loaded."""
        return "generate" if self.method == "letter" else "score"


class PerplexityTask(BaseTask):
    """How well a model foretells text."""

    task: Literal["perplexity"]
    """Nats per token, perplexity and bits per byte of text."""
    documents: Literal["file", "paragraph", "line"] = "file"
    """What one document of a text file is; rows of other files are one document each."""
    window_tokens: Annotated[int, Field(ge=2)] = 1024
    """Most tokens the model sees at once; longer documents are cut."""
    overlap_tokens: PositiveInt = 256
    """Tokens of the window before that a window sees again, as context, without being scored."""
    batch_tokens: PositiveInt = 4096
    """Tokens scored side by side."""

    @property
    def needs(self) -> ModelNeed:
        """How the model must be loaded."""
        return "score"

    @model_validator(mode="after")
    def _check_window(self) -> PerplexityTask:
        if not self.overlap_tokens < self.window_tokens <= self.batch_tokens:
            raise ValueError("overlap_tokens < window_tokens <= batch_tokens must hold")
        return self


class ToolCallTask(AnswerTask):
    """Function calls, compared by name and arguments."""

    task: Literal["tool_calls"]
    """Conversations with tools; the last calling turn is the reference."""


class ItemsTask(BaseTask, ItemChecks):
    """Multiple-choice items as `generate-items` writes them: offline rules, and InceptBench."""

    task: Literal["items"]
    """Rules of form for each item, and the judge's scores beside them."""

    @property
    def needs(self) -> ModelNeed:
        """How the model must be loaded."""
        return "nothing"


TaskConfig = Annotated[
    Gsm8kTask | MathTask | McqTask | PerplexityTask | ToolCallTask | ItemsTask,
    Field(discriminator="task"),
]


class EvaluateStage(Config):
    """Measure the latest model."""

    stage: Literal["evaluate"]
    name: StageName = "evaluate"
    model_from: StageName | Literal["base"] | None = None
    """Training stage whose model to measure, or `base`; the latest one where absent."""
    compare_to: StageName | None = None
    """Earlier evaluate stage on the same problems; the paired difference is reported."""
    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_labels(self) -> EvaluateStage:
        labels = [task.label for task in self.tasks]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"two tasks are named `{twice[0]}`; give one of them another `name`")
        return self
