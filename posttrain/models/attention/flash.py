"""FlashAttention's kernels for sequences of many lengths, from whichever package is installed.

A tree is exact in them: the queries of a segment are one sequence, its keys and values are those of
its ancestors and its own, gathered end to end, and the causal mask stands at the bottom right.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain.layout import SegmentTable
from posttrain.models.attention.call import (
    align,
    dropout_of,
    scale_of,
    segment_table,
    softcap_of,
    window_of,
)


@dataclass(frozen=True)
class VarlenPlan:
    """A batch as sequences of a kernel; the queries are the batch's tokens as they lie."""

    keys: Tensor | None
    """Indices into T of every sequence's keys, end to end; None where they are the batch itself."""
    query_ends: Tensor
    """[S + 1] int32: where each sequence's queries begin, and the last one's end."""
    key_ends: Tensor
    """The same of its keys."""
    longest_query: int
    longest_key: int


def plan_varlen(table: SegmentTable) -> VarlenPlan:
    """Turn segments into sequences of queries and keys.

    Args:
        table: The segments.
    """
    paths = [(*table.ancestors(i), i) for i in range(len(table.lengths))]
    key_lengths = [sum(table.lengths[s] for s in path) for path in paths]
    keys = None
    if any(len(path) > 1 for path in paths):
        own = [torch.arange(s, s + n) for s, n in zip(table.starts, table.lengths, strict=True)]
        keys = torch.cat([own[s] for path in paths for s in path])
    return VarlenPlan(
        keys,
        _ends(table.lengths),
        _ends(key_lengths),
        max(table.lengths),
        max(key_lengths),
    )


def _ends(lengths: Any) -> Tensor:
    ends = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    ends[1:] = torch.tensor(lengths).cumsum(0)
    return ends


@dataclass(frozen=True)
class VarlenCall:
    """What a kernel is asked besides the tensors."""

    plan: VarlenPlan
    scale: float
    causal: bool
    window: tuple[int, int]
    """How far back and ahead a query sees, its own place not counted; -1 is without end."""
    softcap: float | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class FlashKernel:
    """One package's kernel."""

    origin: str
    """Package and version."""
    run: Callable[[Tensor, Tensor, Tensor, VarlenCall], Tensor]
    """Of queries [T, H, D], keys and values [L, K, D]; returns [T, H, D]."""
    softcap: bool
    """Whether it bends scores."""
    dropout: bool
    """Whether it drops weights."""


def find_kernel(generation: int) -> FlashKernel | None:
    """Find what computes FlashAttention 2 or 3 here.

    Args:
        generation: 2 or 3.
    """
    if generation not in _kernels:
        found = _find_package_3() if generation == 3 else _find_package_2() or _find_torch()
        _kernels[generation] = found
    return _kernels[generation]


_kernels: dict[int, FlashKernel | None] = {}


def _find_package_2() -> FlashKernel | None:
    module = _import("flash_attn")
    varlen = getattr(module, "flash_attn_varlen_func", None)
    if varlen is None:
        return None

    def run(query: Tensor, key: Tensor, value: Tensor, call: VarlenCall) -> Tensor:
        return _take_output(
            varlen(
                query,
                key,
                value,
                **_package_arguments(call),
                dropout_p=call.dropout,
            )
        )

    bends = "softcap" in inspect.signature(varlen).parameters
    return FlashKernel(f"flash_attn {getattr(module, '__version__', '')}", run, bends, True)


def _find_package_3() -> FlashKernel | None:
    module = _import("flash_attn_interface") or _import("flash_attn_3.flash_attn_interface")
    varlen = getattr(module, "flash_attn_varlen_func", None)
    if varlen is None:
        return None

    def run(query: Tensor, key: Tensor, value: Tensor, call: VarlenCall) -> Tensor:
        return _take_output(varlen(query, key, value, **_package_arguments(call)))

    bends = "softcap" in inspect.signature(varlen).parameters
    return FlashKernel("flash_attn_3", run, bends, False)


def _find_torch() -> FlashKernel | None:
    """Torch's own copy of FlashAttention 2; its interface still changes between releases."""
    module = _import("torch.nn.attention.varlen")
    varlen = getattr(module, "varlen_attn", None)
    known = inspect.signature(varlen).parameters if varlen else {}
    if varlen is None or not {"scale", "window_size"} <= known.keys():
        return None

    def run(query: Tensor, key: Tensor, value: Tensor, call: VarlenCall) -> Tensor:
        plan = call.plan
        groups = {"enable_gqa": query.shape[1] != key.shape[1]} if "enable_gqa" in known else {}
        # (-1, 0) is how it is told of a causal mask.
        window = (-1, 0) if call.causal and call.window[0] < 0 else call.window
        output: Tensor = varlen(
            query,
            key,
            value,
            plan.query_ends,
            plan.key_ends,
            plan.longest_query,
            plan.longest_key,
            scale=call.scale,
            window_size=window,
            **groups,
        )
        return output

    return FlashKernel(f"torch {torch.__version__}", run, False, False)


def _package_arguments(call: VarlenCall) -> dict[str, Any]:
    """What FlashAttention's own packages of both generations are asked alike."""
    plan = call.plan
    return {
        "cu_seqlens_q": plan.query_ends,
        "cu_seqlens_k": plan.key_ends,
        "max_seqlen_q": plan.longest_query,
        "max_seqlen_k": plan.longest_key,
        "softmax_scale": call.scale,
        "causal": call.causal,
        "window_size": call.window,
        **({"softcap": call.softcap} if call.softcap else {}),
    }


def _take_output(result: Any) -> Tensor:
    """Leave the log-sum-exp away that some releases return as well."""
    output: Tensor = result[0] if isinstance(result, tuple) else result
    return output


def _import(name: str) -> Any:
    """Import a module; one built for another torch breaks in ways of its own."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None


def attend_varlen(
    kernel: FlashKernel,
    module: torch.nn.Module,
    tensors: tuple[Tensor, Tensor, Tensor],
    kwargs: dict[str, Any],
) -> Tensor:
    """Attend through a kernel.

    Args:
        kernel: Of ``find_kernel``.
        module: The layer.
        tensors: Queries, keys and values as transformers hands them over, [1, heads, T, D].
        kwargs: What it hands over besides.

    Returns:
        As transformers wants it, [1, T, heads, D].
    """
    table = segment_table(kwargs)
    query, key, value = tensors
    plan = table.plan(("varlen", query.device), lambda: _move(plan_varlen(table), query.device))
    window = window_of(table, kwargs)
    reach = -1 if window is None else window - 1
    call = VarlenCall(
        plan,
        scale_of(query, kwargs),
        table.causal,
        (reach, 0 if table.causal and window is not None else reach),
        softcap_of(kwargs),
        dropout_of(module, kwargs),
    )
    flat = [x[0].transpose(0, 1) for x in align(query, key, value)]
    if plan.keys is not None:
        flat[1:] = [x.index_select(0, plan.keys) for x in flat[1:]]
    return kernel.run(flat[0], flat[1], flat[2], call)[None]


def _move(plan: VarlenPlan, device: torch.device) -> VarlenPlan:
    keys = None if plan.keys is None else plan.keys.to(device)
    ends = (plan.query_ends.to(device), plan.key_ends.to(device))
    return VarlenPlan(keys, *ends, plan.longest_query, plan.longest_key)


def _build(generation: int) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """An attention function of transformers."""
        kernel = find_kernel(generation)
        if kernel is None:
            raise ValueError(f"flash_attention_{generation} was chosen, and there is no kernel")
        return attend_varlen(kernel, module, (query, key, value), kwargs), None

    return attend


attend_flash_2, attend_flash_3 = _build(2), _build(3)
