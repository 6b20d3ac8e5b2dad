"""Requests as OpenAI's API defines them, and the answers.

What would change an answer and is not supported is refused. A field passes unseen only where its
value asks for what happens anyway, or where it can change no answer.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator

from posttrain.generation.sampling import SamplingOptions
from posttrain.serving.limits import ApiError

_NEUTRAL: dict[str, list[Any]] = {
    "n": [1],
    "best_of": [1],
    "echo": [False],
    "suffix": [""],
    "logprobs": [False],
    "logit_bias": [{}],
    "presence_penalty": [0],
    "frequency_penalty": [0],
    "tools": [[]],
    "functions": [[]],
    "tool_choice": ["none", "auto"],
    "function_call": ["none", "auto"],
    "response_format": [{"type": "text"}],
    "modalities": [["text"]],
    "tool_calls": [[]],
    "annotations": [[]],
}
_WITHOUT_EFFECT = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
}


def _check_unicode(text: str) -> str:
    """JSON can write half of a surrogate pair, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode") from None
    return text


Text = Annotated[str, AfterValidator(_check_unicode)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class StrictModel(BaseModel):
    """A part of a request: no unknown field, no silent conversion; null is absent."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept = {}
        for name, value in values.items():
            if value is None:
                continue
            if name not in cls.model_fields:
                if name in _WITHOUT_EFFECT or _is_neutral(name, value):
                    continue
                raise ApiError(
                    400,
                    f"`{name}` is not supported here",
                    code="unsupported_parameter",
                    param=str(name),
                )
            kept[name] = value
        return kept


def _is_neutral(name: str, value: Any) -> bool:
    """Whether a value asks for what happens anyway. 0 and false differ: logprobs=0 asks for one."""
    return any(
        value == usual and isinstance(value, bool) == isinstance(usual, bool)
        for usual in _NEUTRAL.get(name, ())
    )


class TextPart(StrictModel):
    """A part of a message; only text is supported."""

    type: Literal["text"]
    text: Text


class ChatMessage(StrictModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """``developer`` is OpenAI's newer word for ``system``."""
    content: Text | Annotated[list[TextPart], Field(min_length=1)]

    def to_message(self) -> dict[str, Any]:
        """The turn as chat templates take it."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(StrictModel):
    """What a stream ends with."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Padding against listeners; never added."""


class WritingRequest(StrictModel):
    """What requests for chats and for completions share."""

    model: Text
    max_tokens: PositiveInt | None = None
    temperature: Temperature = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @property
    def wanted_tokens(self) -> int | None:
        """Longest answer, where the request says."""
        return self.max_tokens

    def to_options(self, max_new_tokens: int) -> SamplingOptions:
        """How the answer is written."""
        return SamplingOptions(
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
        )


class ChatRequest(WritingRequest):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: PositiveInt | None = None

    @property
    def wanted_tokens(self) -> int | None:
        """Longest answer; the newer name of the field counts."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(WritingRequest):
    """``POST /v1/completions``."""

    prompt: Annotated[Text, Field(min_length=1)]


def count_usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens read and written; an end token counts as written."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Reply:
    """Builds the answers to one request, whole or in chunks.

    Args:
        model: Name of the model.
        chat: Whether it answers a chat; otherwise it completes a text.
    """

    def __init__(self, model: str, *, chat: bool) -> None:
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, finish_reason: str | None, usage: dict[str, int]) -> dict[str, Any]:
        """The answer in one piece."""
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice], "usage": usage}

    def chunk(
        self, text: str, finish_reason: str | None = None, *, first: bool = False
    ) -> dict[str, Any]:
        """A piece of a streamed answer; a chat's first one opens the turn."""
        delta = {
            **({"role": "assistant"} if first else {}),
            **({"content": text} if text or first else {}),
        }
        said = {"delta": delta} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": self._chunk_kind, "choices": [choice]}

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last piece of a stream that asked for its usage."""
        return {**self._head, "object": self._chunk_kind, "choices": [], "usage": usage}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"
