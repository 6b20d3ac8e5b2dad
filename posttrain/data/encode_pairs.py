"""Preference pairs -> trees: the prompt is the root, the two answers are its children."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from posttrain.data.encode import EncodeOptions, Example
from posttrain.data.overlong import find_breaks, find_longest, split_head
from posttrain.data.records import Message, Preference, Record, Reject, RowError, check_chat
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import Codec
from posttrain.layout import NO_PARENT


def encode_pairs(
    records: Iterable[Record[Preference]],
    renderer: ChatRenderer,
    codec: Codec,
    options: EncodeOptions,
) -> Iterator[Example | Reject]:
    """Encode pairs; each gives an example of three segments or a reject, in order.

    Args:
        records: Converted rows.
        renderer: Of the model's tokenizer.
        codec: Of the same tokenizer.
        options: Longest prompt with either answer; truncating leaves out the oldest exchanges of
            the prompt, never the system turn or a part of an answer.

    Yields:
        One item per record; segments are the prompt, the chosen and the rejected answer.
    """
    encoding = _PairEncoding(renderer, codec)
    for record in records:
        try:
            yield _fit(record, encoding, options)
        except RowError as error:
            yield Reject(record.origin, error.reason, error.detail)


def _fit(record: Record[Preference], encoding: _PairEncoding, options: EncodeOptions) -> Example:
    whole = encoding.encode(record)
    longest = _longest(whole)
    if longest <= options.max_tokens:
        return whole
    head, turns = split_head(record.content.prompt)
    starts = find_breaks(turns)[::-1] if options.overlong == "truncate" else []

    def shorten(number: int) -> Example | None:
        content = replace(record.content, prompt=(*head, *turns[starts[number] :]))
        shorter = encoding.encode(replace(record, content=content))
        return shorter if _longest(shorter) <= options.max_tokens else None

    _, kept = find_longest(len(starts), shorten)
    if kept is None:
        options.check_length(longest)
        raise AssertionError("not reached: it is too long")
    return replace(kept, cut="truncated")


def _longest(example: Example) -> int:
    prompt, *answers = example.lengths
    return prompt + max(answers)


class _PairEncoding:
    def __init__(self, renderer: ChatRenderer, codec: Codec) -> None:
        self._renderer, self._codec = renderer, codec

    def encode(self, record: Record[Preference]) -> Example:
        pair = record.content
        (prompt, chosen), (other_prompt, rejected) = (
            self._encode_answer(pair, answer) for answer in (pair.chosen, pair.rejected)
        )
        if prompt != other_prompt:
            raise RowError("the template renders two prompts", "they must not depend on the answer")
        if chosen == rejected:
            raise RowError("chosen and rejected are equal", "once rendered")
        lengths = (len(prompt), len(chosen), len(rejected))
        return Example(
            record,
            np.array([*prompt, *chosen, *rejected], dtype=np.int32),
            np.repeat(np.float32([0, 1, 1]), lengths),
            retokenized=False,
            lengths=lengths,
            parents=(NO_PARENT, 0, 0),
        )

    def _encode_answer(self, pair: Preference, answer: Message) -> tuple[list[int], list[int]]:
        """Ids of the prompt as at inference, and of the answer with its end token.

        The answer has the ids that it has in the whole, unless a token would lie across its start.
        """
        chat = pair.answered(answer)
        check_chat(chat)
        pieces = self._renderer.split_trained(chat, "last_assistant")
        place = next(i for i, piece in enumerate(pieces) if piece.weight)
        before, text = "".join(piece.text for piece in pieces[:place]), pieces[place].text
        prompt, whole = self._codec.encode(before), self._codec.encode(before + text)
        if whole[: len(prompt)] == prompt:
            return prompt, whole[len(prompt) :]
        return prompt, self._codec.encode(text)
