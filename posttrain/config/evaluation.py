"""What is measured, on which problems."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from posttrain.config.base import Config, ConfigPath, ModelName, StageName, TemplatePath
from posttrain.config.data import TaskData
from posttrain.config.generation import GeneratorConfig, TransformersBackEnd
from posttrain.config.items import ItemChecks
from posttrain.config.model import ComputeConfig
from posttrain.config.prompts import PromptText


def _check_pattern(pattern: str) -> str:
    import regex

    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return pattern


GRADING = ("kind", "answer_pattern", "grader_seconds", "ignore_case", "normalize")
"""What may be other than when answers were written: it has no part in the writing."""
ModelNeed = Literal["generate", "score", "nothing"]
"""What a task asks of a model: to write answers, to score given text, or nothing."""
_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


class BaseTask(Config):
    """What all tasks share."""

    shorthands: ClassVar[tuple[dict[str, Any], ...]] = ({"type": "string"},)
    called: ClassVar[str] = "task"

    task: StageName | None = None
    """The task's file: `tasks/NAME.yaml` beside the recipe, or one that comes with us (`posttrain
    tasks` lists them). What is said beside it goes over what the file says."""
    name: StageName | None = None
    """Folder of the results; the task's own name where absent."""
    data: TaskData
    """The problems with their reference answers."""

    @classmethod
    def read_shorthand(cls, value: Any) -> dict[str, Any] | None:
        """Read `tasks: [gsm8k]`."""
        return {"task": value} if isinstance(value, str) else None

    @property
    def label(self) -> str:
        """Name of the results' folder."""
        return self.name or self.task or str(getattr(self, "kind", ""))

    @property
    def needs(self) -> ModelNeed:
        """How the model must be loaded."""
        return "generate"


class ProblemTask(BaseTask):
    """What tasks share that have problems with right answers."""

    groups: dict[str, str] = Field(default_factory=dict)
    """Sub-scores besides those of the kind (`level`, `subject`, `skill`, ...), as `{name of the
    score: field of the row}`."""
    cluster: str | None = None
    """Field of the row whose equal values belong together, such as questions on one text: their
    answers do not count as independent. Of `choice`, the passage itself where absent."""


class AnswerTask(ProblemTask):
    """What tasks share whose answers are written by the model."""

    system: str | None = None
    """System turn before each problem."""
    max_new_tokens: PositiveInt = 256
    """Longest answer."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """An answer ends before any of these texts."""
    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    """Answers to each problem; several need a `temperature`, and give pass@k and majority vote."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.0
    """0 always takes the most likely token; higher is more varied."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of sampling: only the most likely tokens that have this share together."""
    top_k: NonNegativeInt = 0
    """Of sampling: only so many of the most likely tokens; 0 takes all."""
    seed: NonNegativeInt = 0
    """Of sampling; every answer has a seed of its own made from it, so that order, batches and
    stops do not matter."""
    batch_size: PositiveInt = 64
    """Answers written side by side."""
    grader_seconds: PositiveFloat = 10.0
    """Longest time for grading one answer; beyond it the answer is unscored, as
    `grader_timeout`."""

    @model_validator(mode="after")
    def _check_sampling(self) -> AnswerTask:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("`samples` are all the same at `temperature: 0`; raise it")
        if self.temperature == 0 and (self.top_p < 1 or self.top_k):
            key = "top_p" if self.top_p < 1 else "top_k"
            raise ValueError(f"`{key}` has no effect at `temperature: 0`; raise it")
        return self


class Example(Config):
    """A solved problem."""

    problem: Annotated[str, Field(min_length=1)]
    """As it is asked."""
    answer: Annotated[str, Field(min_length=1)]
    """As the model shall write its own, with the reasoning where it shall reason."""
    row: dict[str, Any] = Field(default_factory=dict)
    """Fields that the task's `prompt` speaks of as `row.FIELD`."""


class ShotsConfig(Config):
    """Solved examples before each problem."""

    shorthands: ClassVar[tuple[dict[str, Any], ...]] = ({"type": "integer"},)

    number: NonNegativeInt | None = None
    """How many; all that are written down where absent."""
    examples: tuple[Example, ...] = ()
    """Written down; the first ones are taken."""
    data: TaskData | None = None
    """Chosen from these rows instead, the same ones for every problem; never the problem itself."""
    seed: NonNegativeInt = 0
    """Of the choice from `data`."""

    @classmethod
    def read_shorthand(cls, value: Any) -> dict[str, Any] | None:
        """Read `shots: 4`."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return {"number": value} if whole else None

    @model_validator(mode="after")
    def _check_origin(self) -> ShotsConfig:
        if self.examples and self.data:
            raise ValueError("give either `examples` or `data`")
        if self.data and self.number is None:
            raise ValueError("say how many examples to take from `data`, by `number`")
        if not self.data and (self.number or 0) > len(self.examples):
            raise ValueError(
                f"{self.number} examples are wanted and {len(self.examples)} written down; give "
                "more `examples`, or `data` to choose from"
            )
        return self


class ReasoningTask(AnswerTask):
    """What tasks share whose answers may be reasoned out before they are given."""

    cot: bool | None = None
    """`true` asks for reasoning before the answer, `false` for the answer alone; the problem stands
    by itself where absent (of `choice`, with the request for a letter)."""
    ask_reasoning: str = _BOXED
    """Said below the problem where `cot` is true."""
    ask_answer: str = "Give only the final answer."
    """Said below the problem where `cot` is false."""
    context: Literal["chat", "text"] = "chat"
    """The problem as a user turn, or as plain text, for models without a chat template."""
    prompt: PromptText | None = None
    """How a problem is put, a template in Jinja: `problem` (whole), `instruction` (what `cot` asks
    for), of `choice` also `question`, `passage` and `options`, and the row's own fields as
    `row.FIELD`. Where absent, problem and instruction; of `context: text` between `Question:` and
    `Answer:`."""
    shots: ShotsConfig = ShotsConfig()
    """Solved examples before each problem."""
    answer_pattern: Annotated[str, AfterValidator(_check_pattern)] | None = None
    """Regular expression; the answer is what its last match found, or that match's first group.
    The kind's own way of finding it where absent."""

    @property
    def instruction(self) -> str:
        """What is asked for below the problem; may be empty."""
        return "" if self.cot is None else self.ask_reasoning if self.cot else self.ask_answer

    @model_validator(mode="after")
    def _check_prompt(self) -> ReasoningTask:
        if self.cot is not None and self.prompt and "instruction" not in self.prompt:
            raise ValueError("`cot` has no effect where `prompt` has no {{ instruction }}")
        return self


class NumberTask(ReasoningTask):
    """Word problems with a number as answer, such as GSM8K."""

    kind: Literal["number"]
    """Exact numeric equality of the final answer."""


class FormulaTask(ReasoningTask):
    """Problems in the shape of MATH: equal formulas, judged by math-verify (extra `math`)."""

    kind: Literal["formula"]
    """Equality of formulas, in rows {problem, solution or answer, level, subject}."""
    max_new_tokens: PositiveInt = 1024
    """Longest answer."""


class ExactTask(ReasoningTask):
    """Questions whose answer is a word or name."""

    kind: Literal["exact"]
    """The same words as the reference, in rows {problem or question, answer}."""
    ask_reasoning: str = 'Please reason step by step, and end with "Answer: " and the answer.'
    """Said below the problem where `cot` is true."""
    ignore_case: bool = True
    """Capitals and full stops do not matter."""


class ChoiceTask(ReasoningTask):
    """Multiple choice."""

    kind: Literal["choice"]
    """One of several options, in rows of AGIEval, ARC, or {question, options, answer}."""
    ask_reasoning: str = (
        'Please reason step by step, and end with "Answer: " and the letter of the right option.'
    )
    """Said below the question where `cot` is true."""
    ask_answer: str = "Answer with the letter of the right option."
    """Said below the question where `cot` is not true."""
    method: Literal["letter", "likelihood"] = "letter"
    """`letter`: the model writes a letter; `likelihood`: the option that it finds most likely."""
    normalize: Literal["bytes", "none"] = "bytes"
    """Of `likelihood`: which score decides, log-probability per byte of the option or its sum."""
    batch_tokens: PositiveInt = 4096
    """Of `likelihood`: tokens scored side by side."""

    @property
    def instruction(self) -> str:
        """What is asked for below the question; nothing where options are scored."""
        if self.method == "likelihood":
            return ""
        return self.ask_reasoning if self.cot else self.ask_answer

    @property
    def needs(self) -> ModelNeed:
        """How the model must be loaded."""
        return "generate" if self.method == "letter" else "score"

    @model_validator(mode="after")
    def _check_method(self) -> ChoiceTask:
        if self.method == "likelihood" and (self.samples > 1 or self.cot is not None):
            raise ValueError("`samples` and `cot` are of `method: letter`, which writes answers")
        return self


class PerplexityTask(BaseTask):
    """How well a model foretells text."""

    kind: Literal["perplexity"]
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

    kind: Literal["tool_calls"]
    """Conversations with tools; the last calling turn is the reference."""


class ItemsTask(BaseTask, ItemChecks):
    """Multiple-choice items as `generate-items` writes them: offline rules, and InceptBench."""

    kind: Literal["items"]
    """Rules of form for each item, and the judge's scores beside them."""

    @property
    def needs(self) -> ModelNeed:
        """How the model must be loaded."""
        return "nothing"


TaskConfig = Annotated[
    NumberTask | FormulaTask | ExactTask | ChoiceTask | PerplexityTask | ToolCallTask | ItemsTask,
    Field(discriminator="kind"),
]
TASK_KINDS: dict[str, type[BaseTask]] = {
    "number": NumberTask,
    "formula": FormulaTask,
    "exact": ExactTask,
    "choice": ChoiceTask,
    "perplexity": PerplexityTask,
    "tool_calls": ToolCallTask,
    "items": ItemsTask,
}
"""Kind of grading -> its settings."""


def check_labels(tasks: tuple[BaseTask, ...]) -> None:
    """Refuse two tasks whose results would have one folder.

    Raises:
        ValueError: Names the first such label.
    """
    labels = [task.label for task in tasks]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"two tasks are named `{twice[0]}`; give one of them another `name`")


class EvaluateStage(Config):
    """Measure the latest model."""

    stage: Literal["evaluate"]
    name: StageName = "evaluate"
    model_from: StageName | Literal["base"] | None = None
    """Training stage whose model to measure, or `base`; the latest one where absent."""
    compare_to: StageName | None = None
    """Earlier evaluate stage on the same problems; the paired difference is reported."""
    generator: GeneratorConfig = TransformersBackEnd()
    """What writes the answers; tasks that score given text need the model itself."""
    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_labels(self) -> EvaluateStage:
        check_labels(self.tasks)
        return self


class EvaluateCommand(Config):
    """Settings of `evaluate --tasks` for a run or a model."""

    model: ModelName
    """A run, a stage, a model folder, a hub id, or a built-in name."""
    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]
    out: ConfigPath | None = None
    """Folder of the results; where absent, `measured` in the run's or stage's folder, and
    `runs/NAME/measured` for any other model."""
    generator: GeneratorConfig = TransformersBackEnd()
    """What writes the answers; tasks that score given text need the model itself."""
    compute: ComputeConfig = ComputeConfig()
    chat_template: TemplatePath | None = None
    """Takes the place of the model's own, as in a recipe's `model.chat_template`."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""

    @model_validator(mode="after")
    def _check_labels(self) -> EvaluateCommand:
        check_labels(self.tasks)
        return self
