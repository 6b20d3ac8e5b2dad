"""Generation in batches through transformers, greedy or sampled.

Letters: B completions written side by side, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList


@dataclass(frozen=True)
class Completion:
    """What a model wrote."""

    text: str
    """Without special tokens."""
    token_count: int
    """Written tokens, the end token included."""
    finished: bool
    """Whether the model ended its turn, as against running out of room."""
    token_ids: tuple[int, ...] = ()
    """What was written, the end token included."""
    logprobs: tuple[float, ...] = field(default=(), compare=False)
    """Log-probability of each of them as it was sampled, nats; empty where it was not."""


class _Chances(LogitsProcessor):
    """Notes how likely each sampled token was.

    Args:
        temperature: Of the sampling.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._newest_BV: Tensor | None = None
        self._noted: list[Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Note the token before, and keep what the next one is drawn from."""
        self._note(input_ids)
        self._newest_BV = (scores.float() / self._temperature).log_softmax(-1)
        return scores

    def finish(self, input_ids: Tensor) -> list[list[float]]:
        """Return the log-probabilities of all tokens written, of every row."""
        self._note(input_ids)
        return torch.cat(self._noted, dim=1).tolist()

    def _note(self, input_ids: Tensor) -> None:
        if self._newest_BV is not None:
            self._noted.append(self._newest_BV.gather(1, input_ids[:, -1:]))


def find_end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Token ids that end a turn: those of the generation config and the tokenizer's end token."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*listed, tokenizer.eos_token_id] if i is not None})


def generate_greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """Write the most likely completion of each prompt.

    Prompts of similar length share a batch, padded on the left; the order of the results is that
    of the prompts.

    Args:
        model: A causal model in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: Token ids.
        max_new_tokens: Longest completion.
        batch_size: Completions written side by side.
        progress: Called with the number of finished prompts after each batch.

    Returns:
        One completion per prompt.
    """
    options = {"max_new_tokens": max_new_tokens, **_GREEDY}
    return _generate(model, tokenizer, prompts, options, (batch_size, progress))


def generate_sampled(  # noqa: PLR0913 - a request has these parts
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """Sample one completion of each prompt, from all tokens.

    Args:
        model: A causal model in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: Token ids; a prompt that comes several times gets as many completions.
        max_new_tokens: Longest completion.
        batch_size: Completions written side by side.
        temperature: Of the sampling, above 0.
        seed: The same seed and prompts give the same completions; torch's own state is kept.
        progress: Called with the number of finished prompts after each batch.

    Returns:
        One completion per prompt.
    """
    options = {
        "max_new_tokens": max_new_tokens,
        "do_sample": True,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": 0,
    }
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return _generate(model, tokenizer, prompts, options, (batch_size, progress))


# A chat model's own sampling settings would only bring warnings here.
_GREEDY: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def _generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    options: dict[str, Any],
    batching: tuple[int, Callable[[int], None] | None],
) -> list[Completion]:
    batch_size, progress = batching
    end_ids = find_end_ids(model, tokenizer)
    pad_id = tokenizer.pad_token_id
    if pad_id is None:  # any token will do: padding is masked
        pad_id = end_ids[0] if end_ids else 0
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: dict[int, Completion] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        written = _generate_batch(model, [prompts[i] for i in chosen], end_ids, pad_id, options)
        for index, (token_ids, logprobs) in zip(chosen, written, strict=True):
            completions[index] = _read_completion(tokenizer, token_ids, logprobs, end_ids)
        if progress:
            progress(len(completions))
    return [completions[i] for i in range(len(prompts))]


def _generate_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    end_ids: list[int],
    pad_id: int,
    options: dict[str, Any],
) -> list[tuple[list[int], list[float]]]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    chances = _Chances(options["temperature"]) if options["do_sample"] else None
    with torch.no_grad():
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            **options,
            # A chat model's settings of these would change what it writes.
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=end_ids or None,
            pad_token_id=pad_id,
            logits_processor=LogitsProcessorList([chances] if chances else []),
        )
    rows: list[list[int]] = output[:, width:].tolist()
    return list(zip(rows, chances.finish(output) if chances else [[]] * len(rows), strict=True))


def _read_completion(
    tokenizer: Any, token_ids: list[int], logprobs: list[float], end_ids: list[int]
) -> Completion:
    end = next((i for i, token in enumerate(token_ids) if token in end_ids), None)
    kept = token_ids if end is None else token_ids[:end]
    text = tokenizer.decode(kept, skip_special_tokens=True)
    written = token_ids if end is None else token_ids[: end + 1]
    chances = tuple(logprobs[: len(written)])
    return Completion(text, len(written), end is not None, tuple(written), chances)
