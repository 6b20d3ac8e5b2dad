"""A packed batch for models that cannot take one: every path from a root to a leaf is a row.

What siblings share is repeated, rows are filled up at their right, and the model runs as
transformers wrote it, with its own attention mask. Rows of similar length share a call.

Letters: T tokens of the batch, R rows of a call, L tokens of its longest, N chosen positions, n of
them in a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain.layout import SegmentTable

# A call's padding, and more for a call of few tokens, where starting it costs more than they do.
_PADDING_ALLOWED, _SMALL = 1.25, 512


@dataclass(frozen=True)
class Rows:
    """Rows that the model takes in one call."""

    tokens_RL: Tensor
    """Indices into T; a short row repeats its last one."""
    mask_RL: Tensor | None
    """1 for tokens, 0 for filling; None where there is none."""


@dataclass(frozen=True)
class RowPlan:
    """All rows of a batch."""

    calls: tuple[Rows, ...]
    place_T3: Tensor
    """Call, row and column of each token: of a shared one, in the first row that has it."""


def plan_rows(table: SegmentTable) -> RowPlan:
    """Lay every root-to-leaf path out as a row.

    Args:
        table: The segments, causal.
    """
    parents = set(table.parents)
    leaves = [i for i in range(len(table.lengths)) if i not in parents]
    paths = [(*table.ancestors(leaf), leaf) for leaf in leaves]
    sizes = [sum(table.lengths[s] for s in path) for path in paths]
    order = sorted(range(len(paths)), key=lambda p: sizes[p])
    place_T3 = torch.empty(table.total_tokens, 3, dtype=torch.long)
    calls: list[Rows] = []
    for members in _group_rows(order, sizes, limit=max(table.total_tokens, *sizes)):
        rows = [_tokens(table, paths[p]) for p in members]
        # Backwards: of the rows that share a token, the first one is written last and stays.
        for r, row in reversed(list(enumerate(rows))):
            place_T3[row, 0] = len(calls)
            place_T3[row, 1] = r
            place_T3[row, 2] = torch.arange(len(row))
        calls.append(_stack(rows))
    return RowPlan(tuple(calls), place_T3)


def settle_rows(table: SegmentTable) -> RowPlan:
    """Lay a batch out once for all that asks."""
    return table.plan("rows", lambda: plan_rows(table))


def _tokens(table: SegmentTable, path: Sequence[int]) -> Tensor:
    return torch.cat(
        [torch.arange(table.starts[s], table.starts[s] + table.lengths[s]) for s in path]
    )


def _group_rows(order: list[int], sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Cut rows, the shortest first, into calls of little padding and no more tokens than limit."""
    group: list[int] = []
    real = 0
    for row in order:
        laid = (len(group) + 1) * sizes[row]
        allowed = max(_PADDING_ALLOWED * (real + sizes[row]), min(_SMALL, limit))
        if group and (laid > limit or laid > allowed):
            yield group
            group, real = [], 0
        group.append(row)
        real += sizes[row]
    yield group


def _stack(rows: Sequence[Tensor]) -> Rows:
    width = max(len(row) for row in rows)
    tokens = torch.stack([torch.cat([row, row[-1:].expand(width - len(row))]) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(width) < lengths[:, None]).long()
    return Rows(tokens, None if bool(mask.all()) else mask)


@dataclass(frozen=True)
class RowCall:
    """One call of the model, and what to take of it."""

    inputs: dict[str, Any]
    """Of the model's forward."""
    chosen_n: Tensor
    """Which of the N positions are in it."""
    places: tuple[Tensor, Tensor]
    """Row and column of each, [n]."""


def lay_out(
    forward: Callable[..., Any], input_ids_1T: Tensor, table: SegmentTable, positions_N: Tensor
) -> list[RowCall]:
    """Turn a packed batch into calls of a model that cannot take it.

    Args:
        forward: The model's forward; asked only what it accepts.
        input_ids_1T: The batch.
        table: Its segments.
        positions_N: Tokens whose hidden states are wanted, indices into T.

    Returns:
        Calls that hold every position once; one at least.
    """
    device = input_ids_1T.device
    plan = settle_rows(table)
    places_N3 = plan.place_T3[positions_N.cpu()]
    accepted = inspect.signature(forward).parameters
    calls: list[RowCall] = []
    for number, rows in enumerate(plan.calls):
        chosen_n = (places_N3[:, 0] == number).nonzero()[:, 0]
        # A batch that teaches nothing still goes through the model, for its gradients of 0.
        if not len(chosen_n) and (len(positions_N) or number):
            continue
        inputs: dict[str, Any] = {"input_ids": input_ids_1T[0, rows.tokens_RL.to(device)]}
        if rows.mask_RL is not None:
            inputs["attention_mask"] = rows.mask_RL.to(device)
        if "use_cache" in accepted:
            inputs["use_cache"] = False
        row_n, column_n = places_N3[chosen_n, 1].to(device), places_N3[chosen_n, 2].to(device)
        calls.append(RowCall(inputs, chosen_n.to(device), (row_n, column_n)))
    return calls


def score_rows(forward: Callable[..., Any], kwargs: dict[str, Any], request: dict[str, Any]) -> Any:
    """Let a model that cannot take a packed batch score its chosen positions, call by call.

    Args:
        forward: The model's own.
        kwargs: The packed batch, as the model was called with it.
        request: Where the output layer finds what to score; see ``models.packed``.

    Returns:
        The output of the last call, with the scores of all positions, [1, N, ...], as its logits.
    """
    calls = lay_out(forward, kwargs["input_ids"], kwargs["segments"], kwargs["score_positions"])
    upstream_N = kwargs.get("score_upstream")
    parts: list[Tensor] = []
    for call in calls:
        request["places"] = call.places
        request["targets"] = kwargs["score_targets"][call.chosen_n]
        request["upstream"] = None if upstream_N is None else upstream_N[call.chosen_n]
        output = forward(**call.inputs)
        parts.append(output.logits[0])
    output.logits = join(calls, parts)[None]
    return output


def join(calls: Sequence[RowCall], results_n: Sequence[Tensor]) -> Tensor:
    """Put what the calls gave for their positions into the order of the positions, [N, ...]."""
    order = torch.cat([call.chosen_n for call in calls]).argsort()
    return torch.cat(list(results_n)).index_select(0, order)


def takes_rows(model: Any) -> bool:
    """Whether a model is on attention of transformers' own, and so takes rows."""
    attention = model.config.get_text_config()._attn_implementation or ""
    return not attention.startswith("posttrain_")
