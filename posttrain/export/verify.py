"""Compare what a model was with what was made of it, token by token.

Letters: T positions of one sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import encode_rendered

PROMPTS = (
    "What is 12 times 7?",
    "请介绍一下你的功能。",
    "Name three rivers and the seas that they flow into.",
    "Write a Python function that adds up the even numbers of a list.",
    "Tom has 3 boxes with 8 pencils each. He gives away 5 pencils. How many has he left?",
)

SAMPLE_TEXT = """\
The river rises in the hills above the town and runs for eighty miles before it meets the sea. In
spring, when the snow melts, it floods the meadows on both banks, and the farmers move their cattle
to higher ground. By July it is so low that children cross it on stones. The mill at the old bridge
has not turned since 1962; its owner sold the wheel and kept bees in the loft instead.

To find the area of a circle, multiply the square of its radius by pi. A circle with a radius of 5
metres has an area of about 78.5 square metres, and its edge is about 31.4 metres long. If a tin of
paint covers 12 square metres, seven tins are needed, and half of the last one will be left over.

def count_words(text):
    counts = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])

春天来了，河边的柳树发出了新芽。早上七点，老师带着二十四个学生去公园。每个学生种了三棵小树，一共种了七十二棵。
下午下起了雨，大家坐在亭子里读书，等雨停了才回家。

User: My train leaves at 9:40 and the way to the station takes 25 minutes. When must I go?
Assistant: Leave by 9:15 at the latest. If you want ten minutes on the platform, leave at 9:05.
"""


@dataclass(frozen=True)
class ScoredText:
    """Token ids, and which of them count for the loss."""

    token_ids: Sequence[int]
    scored: Sequence[bool]
    """The first one is never predicted, so it never counts."""


@dataclass(frozen=True)
class Agreement:
    """How far a model agrees with the one it was made from, over all positions of some texts."""

    tokens: int
    """Positions compared."""
    max_difference: float
    """Largest difference of two logits."""
    relative_difference: float
    """Norm of all differences over the norm of the logits, each position's mean taken off: adding
    a number to all logits of a position changes nothing."""
    top1_agreement: float
    """Share of positions with the same most likely token."""
    kl: float
    """Mean Kullback-Leibler divergence from the original, nats per position."""
    loss_before: float
    """Mean negative log-likelihood of the scored tokens under the original, nats."""
    loss_after: float
    """The same under what was made of it."""

    @property
    def loss_increase(self) -> float:
        """Nats per scored token."""
        return self.loss_after - self.loss_before


def find_logits(model: Any, texts: Iterable[ScoredText]) -> Iterator[Tensor]:
    """Yield the logits of each text, [T, V] fp32 on the CPU."""
    for text in texts:
        ids = torch.tensor([list(text.token_ids)], device=model.device)
        with torch.no_grad():
            logits_1TV = model(input_ids=ids, use_cache=False).logits
        yield logits_1TV[0].float().cpu()


def compare_logits(
    texts: Iterable[ScoredText], before: Iterable[Tensor], after: Iterable[Tensor]
) -> Agreement:
    """Compare the logits of two models on the same texts.

    Args:
        texts: At least one, with at least one scored token between them.
        before: Logits of each text under the original, [T, V].
        after: The same under what was made of it; columns beyond the original's, which padding of
            the vocabulary adds, are left out.

    Returns:
        The agreement; differences are infinite where a logit is not finite.
    """
    positions = agreeing = scored = 0
    largest = squares = reference = kl = loss_before = loss_after = 0.0
    for text, before_TV, after_TV in zip(texts, before, after, strict=True):
        width = min(before_TV.shape[1], after_TV.shape[1])
        logits_TV, other_TV = before_TV[:, :width], after_TV[:, :width]
        difference_TV = torch.nan_to_num(other_TV - logits_TV, nan=torch.inf)
        largest = max(largest, float(difference_TV.abs().max()))
        squares += float(_centered(difference_TV).double().square().sum())
        reference += float(_centered(logits_TV).double().square().sum())
        agreeing += int((logits_TV.argmax(-1) == other_TV.argmax(-1)).sum())
        positions += len(logits_TV)
        logp_TV, other_logp_TV = logits_TV.log_softmax(-1), other_TV.log_softmax(-1)
        kl += float((logp_TV.exp() * (logp_TV - other_logp_TV)).double().sum())
        counted = torch.tensor(list(text.scored[1:]))
        targets = torch.tensor(list(text.token_ids[1:]))[counted]
        loss_before -= float(logp_TV[:-1][counted].gather(1, targets[:, None]).double().sum())
        loss_after -= float(other_logp_TV[:-1][counted].gather(1, targets[:, None]).double().sum())
        scored += len(targets)
    ratio = (squares / reference) ** 0.5 if largest < torch.inf else float("inf")
    return Agreement(
        tokens=positions,
        max_difference=largest,
        relative_difference=ratio,
        top1_agreement=agreeing / positions,
        kl=max(kl / positions, 0.0),
        loss_before=loss_before / scored,
        loss_after=loss_after / scored,
    )


def _centered(logits_TV: Tensor) -> Tensor:
    return logits_TV - logits_TV.mean(-1, keepdim=True)


def encode_prompts(tokenizer: Any, prompts: Iterable[str]) -> list[list[int]]:
    """Encode prompts as a user's turn, or as plain text where there is no chat template."""
    texts = list(prompts)
    if tokenizer.chat_template:
        renderer = ChatRenderer(tokenizer)
        texts = [renderer.render([{"role": "user", "content": t}], prompt=True) for t in texts]
        return [encode_rendered(text, tokenizer) for text in texts]
    return [list(tokenizer(text)["input_ids"]) for text in texts]
