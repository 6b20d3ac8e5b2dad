"""How a trained model is handed over: adapters merged, weights made smaller."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from posttrain.config.base import Config, ConfigPath, ModelName, StageName
from posttrain.config.data import SourceConfig

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda"]


class MergeSettings(Config):
    """What the command and the stage share."""

    dtype: DtypeName = "auto"
    """Number format of the merged weights; `auto` is that of the base model. The sum itself is
    always taken in fp32."""
    test_prompt: str | None = None
    """A prompt of your own: it joins the comparison, and the answers to it are shown."""
    max_new_tokens: PositiveInt = 48
    """Longest answer of the comparison."""
    max_shard_gib: PositiveFloat = 5.0
    """Largest file of weights."""


class MergeConfig(MergeSettings):
    """Settings of `posttrain merge`."""

    model: ModelName
    """An adapter's folder, or a run or stage whose newest model is an adapter."""
    base: ModelName | None = None
    """Full-precision base model; the one that the adapter names where absent."""
    out: ConfigPath | None = None
    """Folder of the merged model; `merged` beside the adapter where absent."""
    device: DeviceName = "auto"
    """Where to compute."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""


class MergeStage(MergeSettings):
    """Make the adapter of an earlier stage part of the weights, and prove that they agree."""

    stage: Literal["merge"]
    name: StageName = "merge"
    model_from: StageName | None = None
    """Stage whose adapter to merge; the latest one where absent."""


class QuantizeSettings(Config):
    """What the command and the stage share."""

    method: Literal["int8", "nf4", "gguf"] = "nf4"
    """`int8` and `nf4` (8 and 4 bits, bitsandbytes) load in transformers; `gguf` is for
    llama.cpp."""
    dtype: DtypeName = "auto"
    """Number format of what is not quantized; `auto` is that of the model the training began
    with."""
    gguf_type: Literal["f16", "bf16", "q8_0"] = "q8_0"
    """Number format in a GGUF file; llama.cpp's own tools make smaller ones of it."""
    llama_cpp_converter: ConfigPath | None = None
    """llama.cpp's folder or its convert_hf_to_gguf.py, for `gguf`; `$LLAMA_CPP_DIR` where absent.
    """
    data: SourceConfig | None = None
    """File to measure the loss on: conversations (of which the assistant's turns count) or plain
    text; a small built-in text where absent."""
    max_tokens: PositiveInt = 20_000
    """Most tokens of `data` to measure."""
    max_loss_increase: Annotated[float, Field(ge=0)] = 0.5
    """Nats per token by which the loss may rise; more, and nothing is written."""

    @field_validator("method", mode="before")
    @classmethod
    def _name_four_bits(cls, value: Any) -> Any:
        if value == "int4":
            raise ValueError("four bits are `nf4` here, which loses less than evenly spaced levels")
        return value

    @field_validator("data", mode="before")
    @classmethod
    def _take_path(cls, value: Any) -> Any:
        """Let `data=FILE` stand for `data.path=FILE`."""
        return {"path": value} if isinstance(value, str) else value


class QuantizeConfig(QuantizeSettings):
    """Settings of `posttrain quantize`."""

    model: ModelName
    """A run, a stage, a model folder, a hub id or a built-in name; an adapter is merged first."""
    out: ConfigPath | None = None
    """Folder of the smaller model; named by the method, beside the model, where absent."""
    device: DeviceName = "auto"
    """Where to compute."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""


class QuantizeStage(QuantizeSettings):
    """Make an earlier stage's model smaller, and measure what that costs."""

    stage: Literal["quantize"]
    name: StageName = "quantize"
    model_from: StageName | Literal["base"] | None = None
    """Stage whose model to quantize, or `base`; the latest one where absent."""
