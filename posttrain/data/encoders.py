"""Which way a kind of data becomes examples: its formats, its encoding, its audit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
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
from posttrain.data.encode_text import Frame, check_room, cut_blocks, encode_document
from posttrain.data.overlong import find_breaks, find_longest, split_head
from posttrain.data.records import Chat, Record, Reject, RowError
from posttrain.data.store import ExampleBlock
from posttrain.data.templates import ChatRenderer, Shield
from posttrain.data.tokens import Codec, build_codec
from posttrain.layout import NO_PARENT

_FAST = "fast encoder = the tokenizer itself (sample)"


class Encoder(Protocol):
    """From records to examples."""

    kind: str
    """Kind of format it reads; see ``data.formats``."""

    def encode(self, records: Iterable[Record[Any]]) -> Iterator[Example | Reject]:
        """Encode records in order."""

    def audit(self, examples: Sequence[Example], first: int = 0) -> list[AuditCheck]:
        """Check examples; ``first`` is the number of the first one's row in the data set."""

    def finish(self, blocks: Iterable[ExampleBlock]) -> Iterator[ExampleBlock]:
        """Make the examples of a split of what ``encode`` gave; where rows are no examples yet."""


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
        self._codec = build_codec(tokenizer)
        self._options = EncodeOptions(config.max_tokens, config.train_on, config.overlong)

    def encode(self, records: Iterable[Record[Any]]) -> Iterator[Example | Reject]:
        """Encode conversations."""
        return encode_records(records, self._renderer, self._codec, self._options)

    def finish(self, blocks: Iterable[ExampleBlock]) -> Iterator[ExampleBlock]:
        """Rows are examples."""
        return iter(blocks)

    def audit(self, examples: Sequence[Example], first: int = 0) -> list[AuditCheck]:
        """Prove the masks."""
        checks = audit_examples(
            examples,
            self._tokenizer,
            train_on=self._options.train_on,
            first=first,
            prompt_ids=lambda chat: encode_prompt(chat, self._renderer, self._codec),
        )
        return [*checks, *audit_codec(self._codec)]


class PairEncoder:
    """Preference pairs: a prompt with two answers."""

    kind = "preference"

    def __init__(self, config: PreferenceDataConfig, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._renderer = ChatRenderer(tokenizer)
        self._codec = build_codec(tokenizer)
        self._options = EncodeOptions(config.max_tokens, overlong=config.overlong)

    def encode(self, records: Iterable[Record[Any]]) -> Iterator[Example | Reject]:
        """Encode pairs."""
        return encode_pairs(records, self._renderer, self._codec, self._options)

    def finish(self, blocks: Iterable[ExampleBlock]) -> Iterator[ExampleBlock]:
        """Rows are examples."""
        return iter(blocks)

    def audit(self, examples: Sequence[Example], first: int = 0) -> list[AuditCheck]:
        """Prove the masks and the shared prompt."""
        checks = audit_pairs(
            examples,
            self._tokenizer,
            first=first,
            prompt_ids=lambda pair: self._codec.encode(
                self._renderer.render(pair.prompt, pair.tools, prompt=True)
            ),
        )
        return [*checks, *audit_codec(self._codec)]


class PromptEncoder:
    """Prompts to be answered in training; the note holds the reference answer."""

    kind = "chat"

    def __init__(self, config: PromptDataConfig, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._renderer = ChatRenderer(tokenizer)
        self._codec = build_codec(tokenizer)
        self._options = EncodeOptions(config.max_tokens, overlong=config.overlong)

    def encode(self, records: Iterable[Record[Any]]) -> Iterator[Example | Reject]:
        """Encode prompts up to where the answer is to be written."""
        for record in records:
            try:
                yield self._encode(record)
            except RowError as error:
                yield Reject(record.origin, error.reason, error.detail)

    def _encode(self, record: Record[Chat]) -> Example:
        ids = encode_prompt(record.content, self._renderer, self._codec)
        if len(ids) <= self._options.max_tokens:
            return self._example(record, ids)
        head, turns = split_head(record.content.messages)
        starts = find_breaks(turns)[::-1] if self._options.overlong == "truncate" else []

        def shorten(number: int) -> Example | None:
            chat = replace(record.content, messages=(*head, *turns[starts[number] :]))
            shorter = encode_prompt(chat, self._renderer, self._codec)
            if len(shorter) > self._options.max_tokens:
                return None
            return replace(self._example(replace(record, content=chat), shorter), cut="truncated")

        _, kept = find_longest(len(starts), shorten)
        if kept is None:
            self._options.check_length(len(ids))
            raise AssertionError("not reached: it is too long")
        return kept

    def _example(self, record: Record[Chat], ids: list[int]) -> Example:
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

    def finish(self, blocks: Iterable[ExampleBlock]) -> Iterator[ExampleBlock]:
        """Rows are examples."""
        return iter(blocks)

    def audit(self, examples: Sequence[Example], first: int = 0) -> list[AuditCheck]:
        """Compare with the tokenizer's own inference prompts."""
        checks = audit_prompts(
            examples,
            self._tokenizer,
            first=first,
            prompt_ids=lambda chat: encode_prompt(chat, self._renderer, self._codec),
        )
        return [*checks, *audit_codec(self._codec)]


class TextEncoder:
    """Plain text in blocks."""

    kind = "text"

    def __init__(self, config: TextDataConfig, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._frame = Frame.find(tokenizer)
        self._size = check_room(config, self._frame)
        self._join = config.join
        self._codec = build_codec(tokenizer)
        self._shield = Shield.of(tokenizer)
        self._special = set(tokenizer.all_special_ids)

    def encode(self, records: Iterable[Record[Any]]) -> Iterator[Example | Reject]:
        """Encode documents, however long."""
        for record in records:
            try:
                yield encode_document(record, self._ids, self._special, self._frame)
            except RowError as error:
                yield Reject(record.origin, error.reason, error.detail)

    def _ids(self, text: str) -> list[int]:
        if self._shield.is_touched(text):
            text = self._shield.shield_text(text, "the document")
        return self._codec.encode(text)

    def finish(self, blocks: Iterable[ExampleBlock]) -> Iterator[ExampleBlock]:
        """Cut the documents into blocks."""
        return cut_blocks(blocks, self._frame, self._size, join=self._join)

    def audit(self, examples: Sequence[Example], first: int = 0) -> list[AuditCheck]:
        """Documents are no examples yet; only their encoding can be asked about."""
        return audit_codec(self._codec)

    def audit_blocks(self, blocks: Sequence[Example]) -> list[AuditCheck]:
        """Check that every token but a block's first is trained."""
        return audit_text(blocks, self._tokenizer)


def audit_codec(codec: Codec) -> list[AuditCheck]:
    """Say what the spot checks of a fast codec have found since the last time."""
    if codec.name != "tiktoken":
        return []
    taken = codec.take_samples()
    examples = [f"{text[:40]!r}" for text in taken.differing]
    return [AuditCheck(_FAST, taken.checked, len(taken.differing), examples)]


_ENCODERS: dict[type[DataConfig], Any] = {
    ChatDataConfig: ChatEncoder,
    PreferenceDataConfig: PairEncoder,
    PromptDataConfig: PromptEncoder,
    TextDataConfig: TextEncoder,
}
