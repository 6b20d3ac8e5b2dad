"""Choosing the next token of many completions at once.

Letters: B completions, V vocabulary, N blocks of it, W tokens of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from posttrain.errors import NonFiniteError
from posttrain.generation.endings import Draft
from posttrain.generation.generator import GenerationOptions

_WIDTH = 256


def choose_next(
    logits_BV: Tensor, drafts: Sequence[Draft], options: GenerationOptions
) -> tuple[Tensor, Sequence[float | None]]:
    """Choose the next token of each draft, by its own source of chance.

    Returns:
        Token ids, [B], and their log-probabilities, nats; None at temperature 0.
    """
    noise_B = None
    if options.temperature:
        drawn = [draft.draw() for draft in drafts]
        noise_B = torch.tensor(drawn, dtype=torch.float64, device=logits_BV.device)
    tokens_B = choose_tokens(
        logits_BV,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        noise_B=noise_B,
    )
    if not options.temperature:
        return tokens_B, [None] * len(drafts)
    logprobs: list[float | None] = chosen_logprobs(
        logits_BV, tokens_B, options.temperature
    ).tolist()
    return tokens_B, logprobs


def choose_tokens(
    logits_BV: Tensor, *, temperature: float, top_p: float, top_k: int, noise_B: Tensor | None
) -> Tensor:
    """Choose the next token of each completion; none depends on the other rows.

    Args:
        logits_BV: Unnormalized log-probabilities, fp32, [B, V]; minus infinity forbids a token.
        temperature: 0 takes the most likely one.
        top_p: Smallest set of most likely tokens to draw from, by its probability.
        top_k: Number of most likely tokens to draw from; 0 is all.
        noise_B: Where to draw, uniform in [0, 1), float64, [B]; not needed at temperature 0.

    Returns:
        Token ids, [B].

    Raises:
        NonFiniteError: The model's weights are broken.
    """
    largest_B, tokens_B = find_largest(logits_BV)
    if not bool((largest_B < torch.inf).all()):  # neither infinite nor not a number
        raise NonFiniteError("the model's output is not a number", hint="its weights are broken")
    if temperature == 0:
        return tokens_B
    assert noise_B is not None
    # The largest becomes 0 first, so that no temperature makes it overflow.
    scores_BV = (logits_BV - largest_B[:, None]) / temperature
    if 0 < top_k < scores_BV.shape[-1]:
        least_B1 = scores_BV.topk(top_k).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least_B1, -torch.inf)
    probability_BV = scores_BV.softmax(-1)
    if top_p < 1:
        sorted_BV, order_BV = probability_BV.sort(descending=True, stable=True)
        before_BV = sorted_BV.cumsum(-1) - sorted_BV
        kept_BV = sorted_BV.masked_fill(before_BV >= top_p, 0)
        probability_BV = torch.zeros_like(probability_BV).scatter(-1, order_BV, kept_BV)
    below_BV = probability_BV.cumsum(-1, dtype=torch.float64)
    # Rounding may put the point on the total, beyond the last token that can be drawn.
    last_B1 = below_BV[:, -1:]
    point_B1 = (noise_B[:, None] * last_B1).minimum(last_B1 * (1 - 1e-15))
    return torch.searchsorted(below_BV, point_B1, right=True)[:, 0]


def chosen_logprobs(logits_BV: Tensor, tokens_B: Tensor, temperature: float) -> Tensor:
    """Log-probability of chosen tokens among all, at a temperature, nats, [B]."""
    scores_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature
    return scores_BV.gather(-1, tokens_B[:, None])[:, 0] - scores_BV.logsumexp(-1)


def find_largest(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """Find the largest value of each row and its first place, [B] each; NaN is the largest.

    On a CPU torch finds the largest value 20 times as fast as its place: so the place is looked for
    only among the neighbours of the value.
    """
    blocks_BNW = pad(logits_BV, (0, -logits_BV.shape[-1] % _WIDTH), value=-torch.inf).unflatten(
        -1, (-1, _WIDTH)
    )
    largest_BN = blocks_BNW.amax(-1)
    block_B = largest_BN.argmax(-1)
    rows_B = torch.arange(len(logits_BV), device=logits_BV.device)
    place_B = blocks_BNW[rows_B, block_B].argmax(-1)
    return largest_BN[rows_B, block_B], block_B * _WIDTH + place_B
