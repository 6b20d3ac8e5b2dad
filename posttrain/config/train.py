"""Training stages, one class each, told apart by `stage:`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from posttrain.config.base import Config, ModelName, StageName
from posttrain.config.data import (
    ChatDataConfig,
    PreferenceDataConfig,
    PromptDataConfig,
    TextDataConfig,
)
from posttrain.config.guards import GuardedStage
from posttrain.config.model import LoraConfig, ModulePattern, Tuning
from posttrain.config.optimizer import OptimizerConfig, Weight
from posttrain.config.verl import VerlConfig

Share = Annotated[float, Field(gt=0, lt=1)]


class TrainingStage(OptimizerConfig, GuardedStage):
    """What all training stages share."""

    start_from: StageName | Literal["base"] | None = None
    """Earlier stage whose model to go on from, or `base`; the latest one where absent."""
    tuning: Tuning | None = None
    """Of this stage, instead of the recipe's."""
    lora: LoraConfig | None = None
    """Of this stage; what it does not say is the recipe's."""
    train_only: tuple[ModulePattern, ...] | None = None
    """Of this stage, instead of the recipe's."""
    freeze: tuple[ModulePattern, ...] | None = None
    """Of this stage, instead of the recipe's."""
    batch_tokens: PositiveInt | Literal["auto"] = 8192
    """Most tokens in one packed batch on one device; nothing is padded. `auto`, of training on
    fixed rows, takes what should fit into memory; the number is settled once for a stage."""
    activation_checkpointing: bool = False
    """Compute activations twice and keep fewer of them: less memory, slower."""
    log_every_steps: PositiveInt = 10
    save_every_steps: PositiveInt = 200
    """Steps between checkpoints; validation loss is measured at each."""
    save_every_minutes: PositiveFloat | None = None
    """Minutes after which there is a checkpoint besides, without validation."""
    keep_last: PositiveInt = 3
    """Newest checkpoints to keep."""

    @model_validator(mode="after")
    def _check_judge(self) -> TrainingStage:
        data = getattr(self, "data", None)  # each kind of stage has its own kind
        held = data is None or data.split.validation or data.validation_sources
        judging = {"early_stopping": self.watched} if self.early_stopping else {}
        judging |= {"final_model: best": self.ranked_by} if self.keeps_best else {}
        for key, metric in judging.items():
            if not held and self.needs_validation(metric):
                raise ValueError(
                    f"`{key}` looks at validation {metric}, and there are no validation rows; set "
                    "`data.split`, as `split: {validation: 0.05}`, or `data.validation_sources`"
                )
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> TrainingStage:
        every = self.evaluation.every_steps if self.evaluation else None
        if every and every % self.save_every_steps:
            raise ValueError(
                f"`evaluation.every_steps` ({every}) must be a multiple of `save_every_steps` "
                f"({self.save_every_steps}): tasks are measured at checkpoints"
            )
        return self


class FixedDataStage(TrainingStage):
    """Training on rows that are there before it starts."""

    epochs: PositiveFloat = 1.0
    """Passes over the data; a fraction is a partial last pass."""
    steps: PositiveInt | None = None
    """Optimizer steps, instead of `epochs`: as many passes as that takes."""
    accumulate: PositiveInt = 1
    """Batches added up before each optimizer step."""


class SftStage(FixedDataStage):
    """Supervised fine-tuning: learn the assistant's turns."""

    validation_metrics = ("loss", "perplexity", "token_accuracy", "entropy")

    stage: Literal["sft"]
    name: StageName = "sft"
    data: ChatDataConfig
    neftune_alpha: Weight = 0.0
    """Strength of the noise on embeddings in training (NEFTune), 5 to 15 is usual: uniform within
    alpha / sqrt(tokens of the example * width). 0 is none."""


class PretrainStage(FixedDataStage):
    """Continued pretraining: learn to go on with plain text."""

    validation_metrics = ("loss", "perplexity", "token_accuracy", "entropy")

    stage: Literal["pretrain"]
    name: StageName = "pretrain"
    data: TextDataConfig


class MaskConfig(Config):
    """Which tokens an encoder has to find."""

    shorthands: ClassVar[tuple[dict[str, Any], ...]] = ({"type": "number"},)

    share: Share = 0.15
    """Share of the tokens that are to be found."""
    units: Literal["tokens", "words", "spans"] = "tokens"
    """Choose single tokens, whole words, or spans of whole words."""
    hidden: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of these that stand behind the mask token."""
    random: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of these that a random token stands in for; the rest is left as it is."""
    span_end: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Of `spans`: chance that one ends behind each of its words."""
    span_words: PositiveInt = 10
    """Of `spans`: longest one."""

    @classmethod
    def read_shorthand(cls, value: Any) -> dict[str, Any] | None:
        """Read `mask: 0.3`."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return {"share": value} if is_number else None

    @model_validator(mode="after")
    def _check_rest(self) -> MaskConfig:
        if self.hidden + self.random > 1 + 1e-9:
            raise ValueError("`hidden` and `random` are shares of the same tokens: at most 1")
        return self


class MlmStage(FixedDataStage):
    """Masked language modelling for encoders (BERT, ModernBERT): learn hidden tokens of text."""

    validation_metrics = ("loss", "perplexity", "token_accuracy", "entropy")

    stage: Literal["mlm"]
    name: StageName = "mlm"
    evaluation: None = None
    """An encoder answers no tasks."""
    data: TextDataConfig
    mask: MaskConfig = MaskConfig()
    """What is hidden; `mask: 0.3` is its share."""


class RewardStage(FixedDataStage):
    """Reward model: learn to score the better answer of a pair above the worse (Bradley-Terry)."""

    validation_metrics = ("loss", "pair_accuracy", "margin", "chosen_reward", "rejected_reward")

    stage: Literal["reward"]
    name: StageName = "reward"
    evaluation: None = None
    """A reward model answers no tasks."""
    data: PreferenceDataConfig


class DpoStage(FixedDataStage):
    """Direct preference optimization against the model that the stage starts from."""

    validation_metrics = (
        "loss", "pair_accuracy", "margin", "chosen_log_ratio", "rejected_log_ratio",
    )  # fmt: skip

    stage: Literal["dpo"]
    name: StageName = "dpo"
    data: PreferenceDataConfig
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """Highest learning rate; LoRA usually wants ten times that of full tuning."""
    beta: PositiveFloat = 0.1
    """Pull toward the reference model, per nat; larger stays closer."""
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """`sigmoid` is DPO itself."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of pairs whose order is wrong; of `sigmoid` only."""
    sft_weight: Weight = 0.0
    """Weight of the chosen answers' likelihood beside the preference loss (RPO)."""


class RewardsConfig(Config):
    """What a completion is worth: the sum of the parts, each times its weight."""

    answer: Weight = 1.0
    """1 where the evaluation grader finds the answer right."""
    format: Weight = 0.0
    """1 where the answer is given in a form that is asked for (docs/grading.md), and has ended."""
    model: ModelName | None = None
    """Folder or hub id of a reward model (a sequence classifier); its score is added."""
    model_from: StageName | None = None
    """Earlier reward stage, instead of `model`."""
    model_weight: Weight = 1.0
    """Weight of that score."""

    @model_validator(mode="after")
    def _check_parts(self) -> RewardsConfig:
        if self.model and self.model_from:
            raise ValueError("give either `model` or `model_from`")
        if not (self.answer or self.format or self.model or self.model_from):
            raise ValueError("nothing is rewarded: every weight is 0")
        return self


class OnlineStage(TrainingStage):
    """Training on answers that the model writes as it learns."""

    # Keys of the other stages, and what there is in their place.
    meant_by: ClassVar[dict[str, str]] = {"steps": "rollouts", "epochs": "rollouts"}

    validation_metrics = ("reward", "accuracy")

    data: PromptDataConfig
    batch_tokens: PositiveInt = 8192
    """Most tokens in one packed batch; nothing is padded."""
    rewards: RewardsConfig = RewardsConfig()
    """What an answer is worth."""
    engine: Literal["local", "verl"] = "local"
    """`local` trains here; `verl` writes what a Ray cluster needs and prints its command."""
    verl: VerlConfig = VerlConfig()
    """Of the engine `verl`."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """Highest learning rate; LoRA usually wants ten times that of full tuning."""
    rollouts: PositiveInt = 100
    """Rounds of writing answers and learning from them."""
    prompts_per_rollout: PositiveInt = 32
    """Different prompts in each round."""
    completions: PositiveInt = 8
    """Answers per prompt."""
    max_new_tokens: PositiveInt = 256
    """Longest answer; unfinished ones keep their reward for what they are."""
    temperature: PositiveFloat = 1.0
    """Of the sampling."""
    updates_per_rollout: PositiveInt = 1
    """Optimizer steps per pass over a round's answers."""
    passes_per_rollout: PositiveInt = 1
    """Passes over a round's answers."""
    clip_low: Share = 0.2
    """How far a token's probability may fall, as a share, before its gradient stops."""
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """How far it may rise."""
    kl_weight: Weight = 0.0
    """Pull toward the model that the stage starts from."""
    sampler_tolerance: PositiveFloat = 0.1
    """Most that an answer's log-probabilities at sampling and in training may differ by, on average
    in nats per token; more stops the stage."""
    save_every_steps: PositiveInt = 50
    """Steps between checkpoints, made up to whole rounds; reward and accuracy on the validation
    prompts are measured at each."""

    @property
    def all_steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.rollouts * self.updates_per_rollout * self.passes_per_rollout

    @model_validator(mode="after")
    def _check_engine(self) -> OnlineStage:
        if self.evaluation and self.engine == "verl":
            raise ValueError("`evaluation` works with `engine: local` alone")
        return self

    @model_validator(mode="after")
    def _check_updates(self) -> OnlineStage:
        if self.updates_per_rollout > self.prompts_per_rollout:
            raise ValueError(
                f"`updates_per_rollout` ({self.updates_per_rollout}) is above "
                f"`prompts_per_rollout` ({self.prompts_per_rollout}); an update needs at least "
                "one prompt's answers"
            )
        return self


class GrpoStage(OnlineStage):
    """Group-relative policy optimization: answers to one prompt are judged by each other."""

    stage: Literal["grpo"]
    name: StageName = "grpo"
    scale: Literal["group", "none"] = "group"
    """Divide an answer's advantage by its group's standard deviation, or not."""

    @model_validator(mode="after")
    def _check_group(self) -> GrpoStage:
        if self.completions < 2:
            raise ValueError("a group needs at least 2 completions")
        return self


class PpoStage(OnlineStage):
    """Proximal policy optimization with a value head."""

    stage: Literal["ppo"]
    name: StageName = "ppo"
    completions: PositiveInt = 1
    """Answers per prompt."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount per token."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Trust in the value head: 1 uses only rewards, 0 only its next estimate."""
    value_weight: Weight = 0.1
    """Weight of the value head's loss."""
    value_clip: PositiveFloat = 0.2
    """How far an estimate may move from that of the rollout before its gradient stops."""


AnyTrainingStage = (
    SftStage | PretrainStage | MlmStage | RewardStage | DpoStage | GrpoStage | PpoStage
)
ONLINE_STAGES = ("grpo", "ppo")
TRAINING_STAGES = ("pretrain", "mlm", "sft", "reward", "dpo", "grpo", "ppo")
