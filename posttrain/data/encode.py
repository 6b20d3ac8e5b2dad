"""Rendered pieces -> token ids and a mask that says which of them are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from posttrain.data.records import Chat, Content, Message, Record, Reject, RowError, check_chat
from posttrain.data.templates import ChatRenderer, Piece

_CHUNK_ROWS = 512


@dataclass(frozen=True)
class Example:
    """One encoded record: a tree of segments, its tokens laid end to end."""

    record: Record[Content]
    token_ids: np.ndarray[Any, Any]
    """[length] int32."""
    weights: np.ndarray[Any, Any]
    """[length] float32: loss weight of each token as a target; 0 is no loss."""
    retokenized: bool
    """Whether encoding the whole render at once would give other ids, at the last turn's start."""
    lengths: tuple[int, ...] = ()
    """Tokens of each segment; empty where there is one."""
    parents: tuple[int, ...] = ()
    """Segment of the example that each one continues, or ``layout.NO_PARENT``."""
    note: dict[str, Any] | None = None
    """What else training needs of the record, such as the reference answer of a prompt."""
    joined: bool = False
    """Whether assistant turns in a row became one turn, since the template refuses them."""

    @property
    def trained(self) -> np.ndarray[Any, Any]:
        """[length] bool: whether the token carries loss."""
        return self.weights != 0


@dataclass(frozen=True)
class EncodeOptions:
    """What of a conversation is trained, and how long it may be."""

    max_tokens: int
    last_only: bool


def encode_records(
    records: Iterable[Record[Chat]], renderer: ChatRenderer, options: EncodeOptions
) -> Iterator[Example | Reject]:
    """Encode conversations; each gives an example or a reject, in order.

    The prompt of the last turn has exactly the ids it has at inference, where the completion is
    not there yet to merge with it.

    Args:
        records: Converted rows.
        renderer: Of the model's tokenizer.
        options: Length and turns.

    Yields:
        One item per record.
    """
    stream = iter(records)
    while chunk := list(islice(stream, _CHUNK_ROWS)):
        cut = [_cut(record, renderer, options) for record in chunk]
        kept = [found.pieces for found in cut if not isinstance(found, Reject)]
        encoded = iter(_encode_pieces(kept, renderer.tokenizer))
        for record, found in zip(chunk, cut, strict=True):
            if isinstance(found, Reject):
                yield found
                continue
            token_ids, trained, retokenized = next(encoded)
            if len(token_ids) > options.max_tokens:
                detail = f"{len(token_ids)} tokens, max_tokens is {options.max_tokens}"
                yield Reject(record.origin, "too long", detail)
            else:
                joined = found.record is not record
                yield Example(found.record, token_ids, trained, retokenized, joined=joined)


def encode_prompt(record: Record[Chat], renderer: ChatRenderer) -> list[int]:
    """Token ids of a record's prompt, up to where the answer is to be written.

    Raises:
        RowError: The template refuses the conversation.
    """
    text = renderer.render(record.content.prompt, record.content.tools, prompt=True)
    return list(renderer.tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class _Cut:
    record: Record[Chat]
    pieces: list[Piece]


def _cut(record: Record[Chat], renderer: ChatRenderer, options: EncodeOptions) -> _Cut | Reject:
    try:
        check_chat(record.content)
        if record.content.messages[-1]["role"] != "assistant":
            raise RowError("does not end with an assistant turn")
        try:
            pieces = renderer.split_trained(record.content, last_only=options.last_only)
        except RowError:
            joined = _join_turns(record.content)
            if joined == record.content:
                raise
            record = replace(record, content=joined)
            pieces = renderer.split_trained(joined, last_only=options.last_only)
        return _Cut(record, pieces)
    except RowError as error:
        return Reject(record.origin, error.reason, error.detail)


def _join_turns(chat: Chat) -> Chat:
    """Make one turn of assistant turns in a row, where that keeps the order of words and calls.

    Between two of them nobody speaks, so that no prompt of inference leads to the second one;
    templates such as Qwen3's write them otherwise when they are last.
    """
    messages: list[Message] = []
    for message in chat.messages:
        before = messages[-1] if messages else {}
        in_order = not before.get("tool_calls") or not message["content"]
        if (
            before.get("role") == message["role"] == "assistant"
            and in_order
            and not message.get("reasoning_content")
        ):
            texts = [text for text in (before["content"], message["content"]) if text]
            calls = [*before.get("tool_calls", ()), *message.get("tool_calls", ())]
            messages[-1] = {
                **before,
                "content": "\n\n".join(texts),
                **({"tool_calls": calls} if calls else {}),
            }
        else:
            messages.append(message)
    return replace(chat, messages=tuple(messages))


Encoded = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], bool]
_OPTIONS = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}


def _encode_pieces(rows: Sequence[Sequence[Piece]], tokenizer: Any) -> Iterator[Encoded]:
    """Encode all pieces of a chunk in two calls: piece by piece, and whole rows to compare.

    Where the two differ, a token lies across a boundary, or the tokenizer puts a space before
    every text; such rows are encoded again, with a closer look.
    """
    if not rows:
        return
    pieces = tokenizer([p.text for row in rows for p in row], **_OPTIONS)["input_ids"]
    wholes = tokenizer(["".join(p.text for p in row) for row in rows], **_OPTIONS)["input_ids"]
    stream = iter(pieces)
    for row, whole in zip(rows, wholes, strict=True):
        parts = [next(stream) for _ in row]
        token_ids, trained = _join(row, parts)
        same = token_ids.tolist() == list(whole)
        if same or not tokenizer.is_fast:
            yield token_ids, trained, not same
        else:
            yield _encode_across(row, parts, tokenizer)


def _join(
    row: Sequence[Piece], parts: Sequence[Sequence[int]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    token_ids = np.fromiter((t for part in parts for t in part), dtype=np.int32)
    weights = np.array([piece.weight for piece in row], dtype=np.float32)
    return token_ids, np.repeat(weights, [len(part) for part in parts])


def _encode_across(row: Sequence[Piece], parts: Sequence[Sequence[int]], tokenizer: Any) -> Encoded:
    """Encode a row whose pieces cannot be encoded one by one.

    The text before the last trained piece is encoded in one go, as at inference. What follows
    keeps the ids of the whole where they go on from there, and is encoded by itself elsewhere. A
    token across the start of an earlier turn is not trained.
    """
    last = max(i for i, piece in enumerate(row) if piece.weight)
    prompt, prompt_trained = _encode_by_place(row[:last], tokenizer)
    whole, whole_trained = _encode_by_place(row, tokenizer)
    if whole[: len(prompt)].tolist() == prompt.tolist():
        return whole, whole_trained, False
    rest, rest_trained = _join(row[last:], parts[last:])
    token_ids = np.concatenate([prompt, rest])
    return token_ids, np.concatenate([prompt_trained, rest_trained]), True


def _encode_by_place(
    row: Sequence[Piece], tokenizer: Any
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Encode the joined text; a token belongs to the piece in which it starts."""
    text = "".join(piece.text for piece in row)
    encoded = tokenizer(text, return_offsets_mapping=True, **_OPTIONS)
    characters: np.ndarray[Any, Any] = np.repeat(
        np.array([p.weight for p in row], dtype=np.float32), [len(p.text) for p in row]
    )
    places = [start for start, _ in encoded["offset_mapping"]]
    return np.array(encoded["input_ids"], dtype=np.int32), characters[places]
