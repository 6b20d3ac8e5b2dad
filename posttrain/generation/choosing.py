"""Choosing the next token of many completions at once.

Letters: B completions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.errors import NonFiniteError


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
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    assert noise_B is not None
    # The largest becomes 0 first, so that no temperature makes it overflow.
    scores_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature
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


def check_finite(logits_BV: Tensor) -> None:
    """Refuse logits that are no numbers.

    Raises:
        NonFiniteError: The model's weights are broken.
    """
    # The largest is not a number where any is, and a cheaper question than one of each.
    if not bool((logits_BV.amax(-1) < torch.inf).all()):
        raise NonFiniteError("the model's output is not a number", hint="its weights are broken")
