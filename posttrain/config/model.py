"""Which model, what of it is trained, and on what hardware."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from posttrain.config.base import Config, ConfigPath, ModelName, TemplatePath


class ModelConfig(Config):
    """The model a recipe starts from."""

    path: ModelName
    """Built-in name (`tiny`, `tiny-wide`), local folder, or hub id such as `Qwen/Qwen3-0.6B`."""
    tokenizer: ModelName | None = None
    """Where the tokenizer is, if not with the model."""
    chat_template: TemplatePath | None = None
    """Replaces the tokenizer's own chat template: a Jinja file, a `.json` of `system_prefix`,
    `system_suffix`, and so for `user` and `assistant`, or one of these by name: `qwen2_chatml`,
    `llama3_instruct`, `chatglm3`, `baichuan2_chat`, `deepseek_chat`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    attention: Literal[
        "auto", "flash_attention_3", "flash_attention_2", "flex", "sdpa", "eager"
    ] = "auto"
    """Back end of packed attention; `posttrain doctor --attention` measures which work here."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""


Tuning = Literal["full", "lora", "qlora"]
ModulePattern = Annotated[str, Field(min_length=1)]
"""Modules of a model: one by its name or the end of it, and all inside it. `*` is any part of a
name, `0-11` any of these numbers; a regular expression is held against the whole name."""
LayerRange = NonNegativeInt | Annotated[str, Field(pattern=r"^\d+(-\d+)?$")]


def _read_list(value: Any) -> Any:
    """Take one item for a list of it: ``layers: 0-11``."""
    return [value] if isinstance(value, str | int) and not isinstance(value, bool) else value


class LoraConfig(Config):
    """Low-rank adapters, used where `tuning` is `lora` or `qlora`."""

    rank: PositiveInt = 16
    """Width of the update matrices; 8 to 64 is usual."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of inputs to the update that are dropped."""
    targets: (
        Literal["auto", "all-linear"] | Annotated[tuple[ModulePattern, ...], Field(min_length=1)]
    ) = "auto"
    """Modules that get an adapter: `auto` is every projection of the model's layers, without
    routers and heads (of a mixture of experts, those of attention); `all-linear` every linear
    module but the output layer; or a list such as `[q_proj, v_proj]`, of names, their ends, or
    patterns."""
    layers: (
        Annotated[tuple[LayerRange, ...], BeforeValidator(_read_list), Field(min_length=1)] | None
    ) = None
    """Layers whose modules get one, such as `[0, 20-27]`; all where absent."""
    rank_pattern: dict[ModulePattern, PositiveInt] = Field(default_factory=dict)
    """Another `rank` for some modules, such as `{mlp: 32, layers.0-11: 4}`; the first that fits."""
    alpha_pattern: dict[ModulePattern, PositiveFloat] = Field(default_factory=dict)
    """Another `alpha` for some modules."""
    rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead, which keeps high ranks learning (rank-stabilized)."""
    dora: bool = False
    """Learn the length of each output's weights apart from their direction (DoRA): closer to full
    tuning at low ranks, slower."""
    init: Literal["default", "gaussian", "orthogonal"] = "default"
    """How fresh adapters begin; with each, the model begins as it was."""
    plus_ratio: Annotated[float, Field(ge=1)] = 1.0
    """Learning rate of the matrices B, which start at 0, as a multiple of that of the matrices A
    (LoRA+); 1 is plain LoRA, 16 usual with it."""
    train_in_full: tuple[ModulePattern, ...] = ()
    """Modules trained whole beside the adapters and saved with them, such as `[lm_head, norm]`.
    Tied embeddings stay tied: naming one of the two trains both."""
    train_rows: Literal["auto", "added"] | tuple[NonNegativeInt | ModulePattern, ...] = "auto"
    """Rows of embeddings and output layer trained beside the adapters: `added` are those of the
    tokens that `extend-tokenizer` has added, `auto` the same where the model has any; or a list of
    tokens and ids; `[]` trains none."""


class ComputeConfig(Config):
    """Hardware choices. `auto` measures for a moment and says what it found."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the arithmetic."""
    weights: Literal["fp32", "bf16"] = "fp32"
    """Number format of weights that are trained whole, and of their gradients. `bf16` halves both;
    updates are made in fp32 and rounded at random, so that small ones count on average. The
    arithmetic is then bf16."""
    threads: Literal["auto"] | PositiveInt = "auto"
    """CPU threads."""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile on norms and gated layers, in stages on fixed data: about a tenth faster behind
    half a minute of compiling. `auto` does it where a whole model is trained for half an hour or
    more, but not with ZeRO-3: one GPU would hold the whole model. Needs a C++ compiler, on a GPU
    Triton; if it fails, that is said and training goes on without."""

    @field_validator("precision", "weights", mode="before")
    @classmethod
    def _refuse_fp16(cls, value: Any) -> Any:
        if value in ("fp16", "float16"):
            raise ValueError(
                "fp16 is not offered: it needs the loss scaled, and leaves out every step where "
                "that overflows; bf16 has the range of fp32"
            )
        return value

    @model_validator(mode="after")
    def _check_weights(self) -> ComputeConfig:
        if self.weights == "bf16" and self.precision == "fp32":
            raise ValueError("`weights: bf16` cannot be multiplied with `precision: fp32`")
        return self

    @property
    def arithmetic(self) -> str:
        """``precision``, settled where the format of the weights leaves no choice."""
        return "bf16" if self.weights == "bf16" else self.precision


class ParallelConfig(Config):
    """How several processes share a training stage; one process does not need it.

    Start them with `torchrun --nproc_per_node N -m posttrain train RECIPE`.
    """

    strategy: Literal["ddp", "zero2", "zero3"] = "ddp"
    """`ddp`: every process holds all; `zero2`: gradients and optimizer are shared out (DeepSpeed);
    `zero3`: weights too."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Of `zero2` and `zero3`: keep the optimizer, or the weights too, in CPU memory."""
    deepspeed: ConfigPath | None = None
    """DeepSpeed JSON of your own; `auto` values are filled in."""
