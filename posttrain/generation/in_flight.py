"""Completions written side by side, each replaced by the next one as soon as it is done.

A step is one call of the model. It is given the newest token of every completion and, where others
have ended, the prompts that take their slots; so each step brings every completion one token on,
and nothing is padded or written that nobody asked for.

Letters: T tokens of a call, B completions that get a token from it, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from posttrain.generation.choosing import choose_next
from posttrain.generation.endings import Draft, find_context, find_end_ids
from posttrain.generation.generator import Completion, GenerationOptions, GenerationRequest
from posttrain.models.attention import WRITING, register_attention
from posttrain.models.attention.slots import SlotCache, SlotCall

# Prompts that are begun in one step have about so many tokens; longer ones are read in parts.
_READ_TOKENS = 1024
_PART_TOKENS = 512
# A shorter shared prefix is not worth a second attention in every step.
_SHARED_TOKENS = 64


def write_in_flight(
    model: Any,
    tokenizer: Any,
    requests: Sequence[GenerationRequest],
    options: GenerationOptions,
    batch_size: int,
) -> Iterator[tuple[int, Completion]]:
    """Write completions, a new one wherever one ends.

    Args:
        model: A causal model in evaluation mode that takes packed batches; until the last
            completion its attention is exchanged.
        tokenizer: Its tokenizer.
        requests: Prompts with their seeds.
        options: How to write.
        batch_size: Completions written side by side.

    Yields:
        Number of the request and its completion as each is done.

    Raises:
        NonFiniteError: The model's weights are broken.
    """
    if not requests:
        return
    writer = _Writer(model, tokenizer, requests, options, batch_size)
    with _own_attention(model):
        writer.read_shared()
        while writer.goes_on:
            yield from writer.step()


@contextlib.contextmanager
def _own_attention(model: Any) -> Iterator[None]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = inner.config._attn_implementation
    register_attention()
    inner.set_attn_implementation(WRITING)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


class _Row:
    """A completion in its slot.

    Args:
        index: Number of its request.
        prompt: Token ids behind the shared prefix.
        draft: What is written so far.
    """

    def __init__(self, index: int, prompt: tuple[int, ...], draft: Draft) -> None:
        self.index, self.prompt, self.draft = index, prompt, draft
        self.unread: Sequence[int] = prompt
        """Tokens that the model has not been given yet."""
        self.length = 0
        """Tokens in the slot."""

    @property
    def is_reading(self) -> bool:
        """Whether its prompt is not read to the end."""
        return self.length < len(self.prompt)


class _Writer:
    """Slots, and the requests that wait for one."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        requests: Sequence[GenerationRequest],
        options: GenerationOptions,
        batch_size: int,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._requests, self._options = requests, options
        self._end_ids = frozenset(find_end_ids(model, tokenizer))
        self._context = find_context(model)
        self._slots = min(batch_size, len(requests))
        self._cache = SlotCache(self._slots)
        self._shared = _find_shared(requests, model.config.get_text_config())
        # The longest first: slots hold prompts of similar length, and need no more room later.
        # Those of the same prompt come together, so that one is read and the others copy it.
        keys = [(len(request.token_ids), request.token_ids) for request in requests]
        self._waiting = sorted(range(len(requests)), key=lambda i: (keys[i], -i))
        self._rows: list[_Row] = []

    @property
    def goes_on(self) -> bool:
        """Whether there is more to write."""
        return bool(self._waiting or self._rows)

    def read_shared(self) -> None:
        """Read the prefix that all prompts share, once."""
        ids = self._requests[0].token_ids[: self._shared]
        for start in range(0, len(ids), _PART_TOKENS):
            part = ids[start : start + _PART_TOKENS]
            self._call([part], [start], [0])
        if ids:
            self._cache.share(len(ids))

    def step(self) -> Iterator[tuple[int, Completion]]:
        """Bring every completion one token on.

        Yields:
            Those that are done by it.
        """
        self._fill_slots()
        parts = [row.unread[:_PART_TOKENS] for row in self._rows]
        starts = [self._shared + row.length for row in self._rows]
        for row, part in zip(self._rows, parts, strict=True):
            row.unread = row.unread[len(part) :]
            row.length += len(part)
        chosen = [slot for slot, row in enumerate(self._rows) if not row.unread]
        if not chosen:
            self._call(parts, starts, [0])
            return
        logits_BV = self._call(parts, starts, chosen)
        drafts = [self._rows[slot].draft for slot in chosen]
        tokens_B, logprobs = choose_next(logits_BV, drafts, self._options)
        done = []
        for slot, token, logprob in zip(chosen, tokens_B.tolist(), logprobs, strict=True):
            row = self._rows[slot]
            row.unread = (token,)
            if row.draft.add(token, logprob):
                done.append(slot)
        for slot in reversed(done):
            yield self._rows[slot].index, self._rows[slot].draft.complete()
            self._free(slot)

    def _free(self, slot: int) -> None:
        """Give a slot to the next request, or to the last row, so that no slot between is empty."""
        last = self._rows.pop()
        if slot < len(self._rows):
            self._cache.copy(len(self._rows), slot, last.length)
            self._rows[slot] = last

    def _fill_slots(self) -> None:
        """Give free slots to waiting requests, while there are not too many tokens to read."""
        reading = {row.prompt for row in self._rows if row.is_reading}
        to_read = sum(len(row.unread) for row in self._rows if row.is_reading)
        put_off = []
        while self._waiting and len(self._rows) < self._slots and to_read < _READ_TOKENS:
            index = self._waiting.pop()
            prompt = self._requests[index].token_ids[self._shared :]
            if prompt in reading:
                put_off.append(index)
                continue
            request, ends = self._requests[index], self._end_ids
            draft = Draft(request, self._options, self._tokenizer, ends, self._context)
            row = _Row(index, prompt, draft)
            self._copy_twin(row)
            self._rows.append(row)
            if len(row.unread) > 1:
                reading.add(prompt)
            to_read += len(row.unread)
        self._waiting += reversed(put_off)

    def _copy_twin(self, row: _Row) -> None:
        """Where another row has read the same prompt, copy all of it but the last token."""
        for slot, other in enumerate(self._rows):
            if other.prompt == row.prompt and not other.is_reading:
                row.length = len(row.prompt) - 1
                row.unread = row.prompt[row.length :]
                self._cache.copy(slot, len(self._rows), row.length)
                return

    @torch.no_grad()
    def _call(
        self, parts: Sequence[Sequence[int]], starts: Sequence[int], chosen: Sequence[int]
    ) -> Tensor:
        """Give the model the next tokens of each slot.

        Args:
            parts: Tokens of each slot, at least one.
            starts: Position of the first token of each.
            chosen: Slots whose next token is wanted.

        Returns:
            Logits, fp32, [B, V].
        """
        device = self._model.device
        counts = [len(part) for part in parts]
        shared = self._shared if self._cache.is_shared else 0
        ids_T = torch.tensor([token for part in parts for token in part], device=device)
        count_B = torch.tensor(counts)
        ends_B = count_B.cumsum(0) - 1
        slots_T = torch.arange(len(parts)).repeat_interleave(count_B)
        offset_B = torch.tensor(starts) - (ends_B + 1 - count_B)
        positions_T = torch.arange(len(ids_T)) + offset_B[slots_T]
        call = SlotCall(
            cache=self._cache,
            slots_T=slots_T.to(device),
            places_T=(positions_T - shared).to(device),
            lengths=[start - shared + count for start, count in zip(starts, counts, strict=True)],
            counts=counts,
            ends_B=ends_B.to(device),
        )
        output = self._model(
            input_ids=ids_T[None],
            position_ids=positions_T.to(device)[None],
            # Four axes tell transformers to build no mask of its own; the slots say who sees whom.
            attention_mask=torch.zeros(1, 1, 1, 1, device=device),
            use_cache=False,
            logits_to_keep=ends_B[torch.tensor(chosen)].to(device),
            slots=call,
        )
        logits_BV: Tensor = output.logits[0].float()
        return logits_BV


def _find_shared(requests: Sequence[GenerationRequest], config: Any) -> int:
    """Count the tokens that all prompts begin with, where reading them once is worth it."""
    if len(requests) < 2 or getattr(config, "sliding_window", None):
        return 0
    first, last = (pick(r.token_ids for r in requests) for pick in (min, max))
    same = 0
    # What the first and the last of an order share, all share; each keeps a token of its own.
    for a, b in zip(first[:-1], last[:-1], strict=False):
        if a != b:
            break
        same += 1
    same = min(same, min(len(r.token_ids) for r in requests) - 1)
    return same if same >= _SHARED_TOKENS else 0
