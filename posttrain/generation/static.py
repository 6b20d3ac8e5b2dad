"""Completions in batches that run until their last one is done, through transformers' generate.

For architectures whose memory is no plain list of keys and values per layer; see ``in_flight``.

Letters: B completions written side by side, V vocabulary, L tokens so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from posttrain.generation.choosing import choose_next
from posttrain.generation.endings import Draft, find_context, find_end_ids
from posttrain.generation.generator import Completion, GenerationOptions, GenerationRequest


def write_static(
    model: Any,
    tokenizer: Any,
    requests: Sequence[GenerationRequest],
    options: GenerationOptions,
    batch_size: int,
) -> Iterator[tuple[int, Completion]]:
    """Write completions batch by batch; prompts of similar length share one, padded on the left.

    Args:
        model: A causal model in evaluation mode.
        tokenizer: Its tokenizer.
        requests: Prompts with their seeds.
        options: How to write.
        batch_size: Completions written side by side.

    Yields:
        Number of the request and its completion, when its batch is done.

    Raises:
        NonFiniteError: The model's weights are broken.
    """
    end_ids, context = find_end_ids(model, tokenizer), find_context(model)
    pad_id = tokenizer.pad_token_id
    if pad_id is None:  # any token will do: padding is masked
        pad_id = end_ids[0] if end_ids else 0
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].token_ids))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        drafts = [Draft(requests[i], options, tokenizer, set(end_ids), context) for i in chosen]
        prompts = [requests[i].token_ids for i in chosen]
        _write_batch(model, prompts, drafts, options, pad_id)
        for index, draft in zip(chosen, drafts, strict=True):
            yield index, draft.complete()


def _write_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Draft],
    options: GenerationOptions,
    pad_id: int,
) -> None:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    writer = _Writer(drafts, options)
    with torch.no_grad():
        model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=options.max_new_tokens,
            logits_processor=LogitsProcessorList([writer]),
            stopping_criteria=StoppingCriteriaList([_Stop(writer)]),
            pad_token_id=pad_id,
            # A chat model's settings of these would change what it writes.
            eos_token_id=None,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
        )


class _Writer(LogitsProcessor):
    """Chooses every token itself, as in-flight batches do, and leaves generate no choice."""

    def __init__(self, drafts: Sequence[Draft], options: GenerationOptions) -> None:
        self._drafts, self._options = drafts, options
        self.done = [False] * len(drafts)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Choose, [B, L] and [B, V] -> [B, V]: 0 for the chosen tokens, else minus infinity."""
        tokens_B, logprobs = choose_next(scores.float(), self._drafts, self._options)
        for row, (token, logprob) in enumerate(zip(tokens_B.tolist(), logprobs, strict=True)):
            if not self.done[row]:
                self.done[row] = self._drafts[row].add(token, logprob)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens_B[:, None], 0.0)


class _Stop(StoppingCriteria):
    """Tells generate which rows are done."""

    def __init__(self, writer: _Writer) -> None:
        self._writer = writer

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Say it, [B] bool."""
        done_B: Tensor = torch.tensor(self._writer.done, device=input_ids.device)
        return done_B
