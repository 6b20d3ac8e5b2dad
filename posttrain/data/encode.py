"""Conversations -> token ids and the loss weight of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np

from posttrain.data.overlong import find_breaks, find_longest, hides_reasoning, split_head
from posttrain.data.records import Chat, Content, Message, Record, Reject, RowError, check_chat
from posttrain.data.templates import ChatRenderer, Piece
from posttrain.data.tokens import Codec

TrainOn = Literal["all_assistant", "last_assistant", "completion", "everything"]


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
    cut: Literal["", "truncated", "split"] = ""
    """What was done to a conversation that is too long; ``record`` is what was left of it."""
    part: int = 0
    """Number of the example among those of its row."""

    @property
    def trained(self) -> np.ndarray[Any, Any]:
        """[length] bool: whether the token carries loss."""
        return self.weights != 0


@dataclass(frozen=True)
class EncodeOptions:
    """What of a conversation is trained, and how long it may be."""

    max_tokens: int
    train_on: TrainOn = "all_assistant"
    overlong: Literal["reject", "truncate", "split", "error"] = "reject"
    """What becomes of longer ones; ``error`` rejects them too, and the caller stops."""

    def check_length(self, tokens: int) -> None:
        """Check that so many tokens are not too many.

        Raises:
            RowError: They are.
        """
        if tokens > self.max_tokens:
            raise RowError("too long", f"{tokens} tokens, max_tokens is {self.max_tokens}")


def encode_records(
    records: Iterable[Record[Chat]], renderer: ChatRenderer, codec: Codec, options: EncodeOptions
) -> Iterator[Example | Reject]:
    """Encode conversations, in order.

    The prompt of the last turn has exactly the ids it has at inference, where the completion is
    not there yet to merge with it.

    Args:
        records: Converted rows.
        renderer: Of the model's tokenizer.
        codec: Of the same tokenizer.
        options: Length and turns.

    Yields:
        An example or a reject per record. Where long ones are split, a record gives its parts one
        after the other; a part that is still too long is a reject among them.
    """
    encoder = _ChatEncoding(renderer, codec, options)
    for record in records:
        try:
            yield from encoder.encode(record)
        except RowError as error:
            yield Reject(record.origin, error.reason, error.detail)


def encode_prompt(chat: Chat, renderer: ChatRenderer, codec: Codec) -> list[int]:
    """Token ids of a conversation's prompt, up to where the answer is to be written.

    Raises:
        RowError: The template refuses the conversation.
    """
    return codec.encode(renderer.render_prompt(chat))


class _ChatEncoding:
    def __init__(self, renderer: ChatRenderer, codec: Codec, options: EncodeOptions) -> None:
        self._renderer, self._codec, self._options = renderer, codec, options

    def encode(self, record: Record[Chat]) -> list[Example | Reject]:
        check_chat(record.content)
        if record.content.messages[-1]["role"] != "assistant":
            raise RowError("does not end with an assistant turn")
        example = self._make(record)
        if len(example.token_ids) <= self._options.max_tokens:
            return [example]
        if self._options.overlong == "split":
            return self._split(record, len(example.token_ids))
        if self._options.overlong == "truncate" and (kept := self._truncate(record)):
            return [kept]
        self._options.check_length(len(example.token_ids))
        raise AssertionError("not reached: it is too long")

    def _truncate(self, record: Record[Chat]) -> Example | None:
        """Take whole exchanges off the end until it fits."""
        messages = record.content.messages
        ends = [end for end in find_breaks(messages) if messages[end - 1].get("loss_weight", 1)]
        shorter = [messages[:end] for end in ends]
        fit = partial(self._fit_one, record, shorter)
        _, example = find_longest(len(ends), fit, rising=not hides_reasoning(messages))
        return example and replace(example, cut="truncated")

    def _split(self, record: Record[Chat], tokens: int) -> list[Example | Reject]:
        """Make examples of runs of exchanges, each as long as fits, behind the system turn."""
        head, turns = split_head(record.content.messages)
        bounds = [0, *find_breaks(turns), len(turns)]
        rising = not hides_reasoning(turns)
        made: list[Example | Reject] = []
        first = 0
        while first < len(bounds) - 1:
            begin = bounds[first]
            later = range(first + 1, len(bounds))
            ends = [n for n in later if self._trains(turns[begin : bounds[n]])]
            if not ends:  # the row gives no weight to any of the turns that are left
                break
            parts = [(*head, *turns[begin : bounds[n]]) for n in ends]
            fit = partial(self._fit_one, record, parts)
            size, example = find_longest(len(parts), fit, rising=rising)
            first = ends[max(size, 0)]
            if example is None:
                place = f"turns {len(head) + begin + 1} to {len(head) + bounds[first]}"
                made.append(Reject(record.origin, "part too long", f"{place} by themselves"))
            else:
                made.append(replace(example, cut="split", part=len(made)))
        if not any(isinstance(item, Example) for item in made):
            self._options.check_length(tokens)
        return made

    def _trains(self, turns: Sequence[Message]) -> bool:
        """Whether a run of turns by itself has something to train."""
        if self._options.train_on == "everything":
            return True
        if self._options.train_on == "last_assistant":
            turns = turns[-1:]
        elif self._options.train_on == "completion":
            turns = turns[max(i for i, m in enumerate(turns) if m["role"] == "user") :]
        return any(m["role"] == "assistant" and m.get("loss_weight", 1) for m in turns)

    def _fit_one(
        self, record: Record[Chat], candidates: Sequence[Sequence[Message]], number: int
    ) -> Example | None:
        """Encode one of several conversations; None where it is too long."""
        chat = replace(record.content, messages=tuple(candidates[number]))
        example = self._make(replace(record, content=chat))
        return example if len(example.token_ids) <= self._options.max_tokens else None

    def _make(self, record: Record[Chat]) -> Example:
        chat, joined = record.content, False
        try:
            pieces = self._renderer.split_trained(chat, self._options.train_on)
        except RowError as error:
            chat = _join_turns(chat)
            if chat == record.content:
                if _has_turns_in_a_row(chat):
                    raise RowError(error.reason, _NOT_JOINED) from None
                raise
            record, joined = replace(record, content=chat), True
            pieces = self._renderer.split_trained(chat, self._options.train_on)
        encoded = self._codec.encode_pieces(pieces, self._find_last(chat, pieces))
        encoded.weights[:1] = 0  # nothing predicts the first token
        return Example(
            record, encoded.token_ids, encoded.weights, encoded.retokenized, joined=joined
        )

    def _find_last(self, chat: Chat, pieces: Sequence[Piece]) -> int | None:
        """Number of the last answer's piece, where weights do not tell it from its prompt."""
        if self._options.train_on != "everything":
            return None
        prompt = len(self._renderer.render_prompt(chat))
        ends = accumulate(len(piece.text) for piece in pieces[:-1])
        return next((i for i, end in enumerate(ends, start=1) if end == prompt), 0)


_NOT_JOINED = (
    "assistant turns in a row, not joined: other loss_weight, or thinking or words behind a call"
)


def _has_turns_in_a_row(chat: Chat) -> bool:
    roles = [message["role"] for message in chat.messages]
    return any(one == other == "assistant" for one, other in pairwise(roles))


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
            and before.get("loss_weight") == message.get("loss_weight")
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
