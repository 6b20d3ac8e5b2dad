"""Attention while completions are written: each in a slot of its own with its keys and values.

A call of the model is given a flat run of tokens, some of each slot: the next one of a completion,
or a part of a prompt that is being read. A token sees what its slot holds up to itself, and before
that the prefix that all prompts share, which is held once.

Letters: T tokens of the call, B slots in use, S slots that there are, H query heads, K key-value
heads, G = H / K, D head size, L tokens of the longest slot, C tokens that a slot has room for, P
tokens of the shared prefix, Q queries of a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.models.attention.call import align, scale_of, softcap_of

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
# Room of slots grows by so many tokens at once: each time, all of them are copied.
_BLOCK = 128
# What a CPU reads in the time that a call for one more slot takes.
_TURN_BYTES = 128 * 1024


class SlotCache:
    """Keys and values of completions in the making, layer by layer.

    Args:
        slots: How many completions are written side by side, S.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        # By the layer's attention module, for layers are not numbered alike in all models.
        self._held: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._shared: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def write(
        self, layer: nn.Module, tokens: tuple[Tensor, Tensor], call: SlotCall
    ) -> tuple[Tensor, Tensor]:
        """Note a call's keys and values.

        Args:
            layer: Attention module that they are of.
            tokens: Keys and values, [1, K, T, D] each.
            call: Where they belong.

        Returns:
            Keys and values of the slots in use, [B, K, L, D] each.
        """
        held = self._held.get(layer)
        if held is None or held[0].shape[2] < call.longest:
            held = self._held[layer] = self._make_room(held, tokens, call.longest)
        for kept, new in zip(held, tokens, strict=True):
            kept[call.slots_T, :, call.places_T] = new[0].transpose(0, 1)
        keys, values = (kept[: len(call.lengths), :, : call.longest] for kept in held)
        return keys, values

    def _make_room(
        self, held: tuple[Tensor, Tensor] | None, tokens: tuple[Tensor, Tensor], longest: int
    ) -> tuple[Tensor, Tensor]:
        room = -(-longest // _BLOCK) * _BLOCK
        made = []
        for number, like in enumerate(tokens):
            # Zeros, for what is masked is still multiplied by 0.
            kept = like.new_zeros(self._slots, like.shape[1], room, like.shape[3])
            if held is not None:
                kept[:, :, : held[number].shape[2]] = held[number]
            made.append(kept)
        return made[0], made[1]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of one slot to another."""
        for held in self._held.values():
            for kept in held:
                kept[target, :, :length] = kept[source, :, :length]

    def share(self, length: int) -> None:
        """Make the first tokens of slot 0 the prefix of all slots."""
        self._shared = {
            layer: (keys[0, :, :length].clone(), values[0, :, :length].clone())
            for layer, (keys, values) in self._held.items()
        }

    @property
    def is_shared(self) -> bool:
        """Whether there is a prefix of all slots."""
        return bool(self._shared)

    def shared(self, layer: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the prefix, [K, P, D] each; None where none is shared."""
        return self._shared.get(layer)


@dataclass(frozen=True)
class SlotCall:
    """Which tokens a call of the model is given, and where they belong."""

    cache: SlotCache
    slots_T: Tensor
    """Slot of each token; tokens lie slot by slot."""
    places_T: Tensor
    """Place of each token in its slot."""
    lengths: Sequence[int]
    """Tokens that each slot in use holds, those of this call included, [B]."""
    counts: Sequence[int]
    """Tokens of this call in each slot, at least one, [B]."""
    ends_B: Tensor
    """Index into T of each slot's last token."""
    masks: dict[Any, Tensor | None] = field(default_factory=dict)
    """Made once for all layers."""

    @property
    def longest(self) -> int:
        """L."""
        return max(self.lengths)

    def is_uneven(self, query: Tensor, held: tuple[Tensor, Tensor]) -> bool:
        """Whether it costs more to read all slots as far as the longest than to take turns."""
        if query.device.type != "cpu":
            return False
        spare = len(self.lengths) * self.longest - sum(self.lengths)
        a_token = sum(x.shape[1] * x.shape[3] * x.element_size() for x in held)
        return spare * a_token > len(self.lengths) * _TURN_BYTES


def attend_slots(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers, for calls with ``slots``."""
    call: SlotCall = kwargs["slots"]
    query, key, value = align(query, key, value)
    scale, softcap = scale_of(query, kwargs), softcap_of(kwargs)
    window: int | None = kwargs.get("sliding_window")
    keys_BKLD, values_BKLD = call.cache.write(module, (key, value), call)
    # Each slot's last token first, side by side: all there is, where nobody reads a prompt.
    query_TKGD = query[0].transpose(0, 1).unflatten(1, (key.shape[1], -1))
    reading = len(query_TKGD) > len(call.lengths)
    last_BKGD = query_TKGD[call.ends_B] if reading else query_TKGD
    held_BKLD = (keys_BKLD, values_BKLD)
    output, lse = _attend_last(last_BKGD, held_BKLD, call, window, (scale, softcap))
    if reading:
        last, last_lse = output, lse
        output = last.new_empty((*query_TKGD.shape[:-1], last.shape[-1]))
        lse = last_lse.new_empty(query_TKGD.shape[:-1])
        output[call.ends_B], lse[call.ends_B] = last, last_lse
        start = 0
        for slot, (count, length) in enumerate(zip(call.counts, call.lengths, strict=True)):
            if count > 1:
                part = query_TKGD[start : start + count].permute(1, 2, 0, 3)
                held = (keys_BKLD[slot, :, None, :length], values_BKLD[slot, :, None, :length])
                mask = _mask_part(call, slot, window, part)
                found, found_lse = _attend(part, held, mask, scale, softcap)
                output[start : start + count] = found.permute(2, 0, 1, 3)
                lse[start : start + count] = found_lse.permute(2, 0, 1)
            start += count
    if (shared := call.cache.shared(module)) is not None:
        output = _join_shared(query_TKGD, shared, (output, lse), scale, softcap)
    return output.flatten(1, 2)[None], None


def _attend_last(
    query_BKGD: Tensor,
    held_BKLD: tuple[Tensor, Tensor],
    call: SlotCall,
    window: int | None,
    bending: tuple[float, float | None],
) -> tuple[Tensor, Tensor]:
    """Attend from the last token of each slot to what it holds.

    In one call, which reads all slots as far as the longest goes; on a CPU, where that reads much
    in vain, in a call for each.
    """
    if not call.is_uneven(query_BKGD, held_BKLD):
        mask = _mask_slots(call, window, query_BKGD)
        return _attend(query_BKGD, held_BKLD, mask, *bending)
    parts = []
    for slot, length in enumerate(call.lengths):
        first = 0 if window is None else max(0, length - window)
        held = [x[slot : slot + 1, :, first:length] for x in held_BKLD]
        parts.append(_attend(query_BKGD[slot : slot + 1], (held[0], held[1]), None, *bending))
    outputs, lses = zip(*parts, strict=True)
    return torch.cat(outputs), torch.cat(lses)


def _attend(
    query: Tensor,
    held: tuple[Tensor, Tensor],
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Attend, [..., G or 1, Q, D] to keys and values [..., 1 or G, L, D] that broadcast to it.

    Returns:
        Output as the queries, and log-sum-exp of the scores without the last axis, fp32.
    """
    keys, values = held
    if query.device.type == "cpu" and softcap is None and keys.shape[-1] == values.shape[-1]:
        shape = query.shape[:2]
        keys, values = (x.expand(*shape, -1, -1) for x in (keys, values))
        output, lse = _flash(query, keys, values, 0.0, False, attn_mask=mask, scale=scale)
        return output, lse
    scores = (query @ keys.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp().to(values.dtype) @ values, lse


def _mask_slots(call: SlotCall, window: int | None, like: Tensor) -> Tensor | None:
    """What the last token of each slot sees, [B, 1, 1, L]; None is all."""
    name = ("slots", window)
    if name not in call.masks:
        end_B1 = torch.tensor(call.lengths, device=like.device)[:, None]
        place_L = torch.arange(call.longest, device=like.device)
        hidden_BL = place_L >= end_B1
        if window is not None:
            hidden_BL |= place_L < end_B1 - window
        call.masks[name] = _to_scores(hidden_BL, like)[:, None, None]
    return call.masks[name]


def _mask_part(call: SlotCall, slot: int, window: int | None, like: Tensor) -> Tensor | None:
    """What the tokens of a slot's part see, [1, 1, Q, length]."""
    name = (slot, window)
    if name not in call.masks:
        length, count = call.lengths[slot], call.counts[slot]
        place_Q1 = torch.arange(length - count, length, device=like.device)[:, None]
        place_L = torch.arange(length, device=like.device)
        hidden_QL = place_L > place_Q1
        if window is not None:
            hidden_QL |= place_L <= place_Q1 - window
        call.masks[name] = _to_scores(hidden_QL, like)[None, None]
    return call.masks[name]


def _to_scores(hidden: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(
        hidden, -torch.inf
    )


def _join_shared(
    query_TKGD: Tensor,
    shared: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Join attention over the shared prefix, of all tokens at once, to that over the slots."""
    held = (shared[0][:, None], shared[1][:, None])
    part, part_lse = _attend(query_TKGD.permute(1, 2, 0, 3), held, None, scale, softcap)
    output_TKGD, lse_TKG = own
    # Two shares that add up to 1, by how much weight lies on either side.
    share_TKG1 = torch.sigmoid(part_lse.permute(2, 0, 1) - lse_TKG)[..., None]
    return torch.lerp(output_TKGD, part.permute(2, 0, 1, 3), share_TKG1.to(output_TKGD.dtype))
