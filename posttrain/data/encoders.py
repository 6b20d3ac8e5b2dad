"""Which way a kind of data becomes examples: its formats, its encoding, its audit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from posttrain.config.data import (
    ChatDataConfig,
    DataConfig,
    PreferenceDataConfig,
    PromptDataConfig,
    TextDataConfig,
)
from posttrain.data.audit import AuditCheck, audit_examples, audit_pairs, audit_prompts, audit_text
from posttrain.data.encode import EncodeOptions, Example, encode_prompt, encode_records
from posttrain.data.encode_pairs import encode_pairs
from posttrain.data.encode_text import encode_text
from posttrain.data.records import Chat, Record, Reject, RowError
from posttrain.data.templates import ChatRenderer
from posttrain.layout import NO_PARENT


class Encoder(Protocol):
    """From records to examples."""

    kind: str
    """Kind of format it reads; see ``data.formats``."""

    def encode(self, records: Iterable[Record[Any]]) -> Iterator[Example | Reject]:
        """Encode records in order."""

    def audit(self, examples: Sequence[Example]) -> list[AuditCheck]:
        """Check finished examples."""


def build_encoder(config: DataConfig, tokenizer: Any) -> Encoder:
    """Choose the encoder for a kind of data.

    Raises:
        ConfigError: The tokenizer has no chat template, where one is needed.
    """
    for settings, encoder in _ENCODERS.items():
        if isinstance(config, settings):
            return encoder(config, tokenizer)
    raise TypeError(f"no encoder for {type(config).__name__}")


def kind_of(config: DataConfig) -> str:
    """Kind of format that a data set is read by."""
    return next(e.kind for settings, e in _ENCODERS.items() if isinstance(config, settings))


class ChatEncoder:
    """Conversations: the assistant's turns are trained."""

    kind = "chat"

    def __init__(self, config: ChatDataConfig, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._renderer = ChatRenderer(tokenizer)
        self._options = EncodeOptions(config.max_tokens, config.train_on == "last_assistant")

    def encode(self, records: Iterable[Record[Any]]) -> Iterator[Example | Reject]:
        """Encode conversations."""
        return encode_records(records, self._renderer, self._options)

    def audit(self, examples: Sequence[Example]) -> list[AuditCheck]:
        """Prove the masks."""
        return audit_examples(examples, self._tokenizer)


class PairEncoder:
    """Preference pairs: a prompt with two answers."""

    kind = "preference"

    def __init__(self, config: PreferenceDataConfig, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._renderer = ChatRenderer(tokenizer)
        self._max_tokens = config.max_tokens

    def encode(self, records: Iterable[Record[Any]]) -> Iterator[Example | Reject]:
        """Encode pairs."""
        return encode_pairs(records, self._renderer, self._max_tokens)

    def audit(self, examples: Sequence[Example]) -> list[AuditCheck]:
        """Prove the masks and the shared prompt."""
        return audit_pairs(examples, self._tokenizer)


class PromptEncoder:
    """Prompts to be answered in training; the note holds the reference answer."""

    kind = "chat"

    def __init__(self, config: PromptDataConfig, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._renderer = ChatRenderer(tokenizer)
        self._max_tokens = config.max_tokens

    def encode(self, records: Iterable[Record[Any]]) -> Iterator[Example | Reject]:
        """Encode prompts up to where the answer is to be written."""
        for record in records:
            try:
                yield self._encode(record)
            except RowError as error:
                yield Reject(record.origin, error.reason, error.detail)

    def _encode(self, record: Record[Chat]) -> Example:
        ids = encode_prompt(record, self._renderer)
        if len(ids) > self._max_tokens:
            raise RowError("too long", f"{len(ids)} tokens, max_tokens is {self._max_tokens}")
        chat = record.content
        note = {"reference": chat.reference, "prompt": [dict(m) for m in chat.prompt]}
        if chat.tools:
            note["tools"] = list(chat.tools)
        untrained: np.ndarray[Any, Any] = np.zeros(len(ids), dtype=np.float32)
        return Example(
            record,
            np.array(ids, dtype=np.int32),
            untrained,
            retokenized=False,
            lengths=(len(ids),),
            parents=(NO_PARENT,),
            note=note,
        )

    def audit(self, examples: Sequence[Example]) -> list[AuditCheck]:
        """Compare with the tokenizer's own inference prompts."""
        return audit_prompts(examples, self._tokenizer)


class TextEncoder:
    """Plain text in blocks."""

    kind = "text"

    def __init__(self, config: TextDataConfig, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._config = config

    def encode(self, records: Iterable[Record[Any]]) -> Iterator[Example | Reject]:
        """Encode documents."""
        return encode_text(records, self._tokenizer, self._config)

    def audit(self, examples: Sequence[Example]) -> list[AuditCheck]:
        """Check that every token but a block's first is trained."""
        return audit_text(examples, self._tokenizer)


_ENCODERS: dict[type[DataConfig], Any] = {
    ChatDataConfig: ChatEncoder,
    PreferenceDataConfig: PairEncoder,
    PromptDataConfig: PromptEncoder,
    TextDataConfig: TextEncoder,
}
