"""Counts the memory of a computation that is not done: torch's fake tensors have shapes only.

What is counted are the storages that are alive at every moment, so that what autograd keeps, what
an operation needs on its way, and what is given back when are those of the real thing.
"""

from __future__ import annotations

import weakref
from collections import Counter
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

_aten = torch.ops.aten
# What is larger, glibc maps for itself and gives back whole (DEFAULT_MMAP_THRESHOLD_MAX).
_MAPPED_BYTES = 32 * 2**20


class LiveBytes(TorchDispatchMode):
    """Storages that are made inside the block, by what they are for, at the fullest moment.

    Args:
        model: Its parameters are not counted; their gradients are told apart.
        vocabulary: Tensors with a side of this length belong to the head.
        keep_gradients: Whether they stay; else they are as if added to those that are there, which
            the caller counts.
    """

    def __init__(self, model: nn.Module, vocabulary: int, *, keep_gradients: bool = True) -> None:
        super().__init__()
        self._keep_gradients = keep_gradients
        self._vocabulary = vocabulary
        self._kinds: dict[int, tuple[int, str]] = {}
        self._now: Counter[str] = Counter()
        self._small = 0
        self.peak: Counter[str] = Counter()
        """Bytes by kind."""
        self.small = 0
        """Bytes of these that a CPU's allocator takes from its heap, which has holes."""
        self._known = {p.untyped_storage()._cdata for p in model.parameters()}
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._mark)
            for p in model.parameters()
            if p.requires_grad
        ]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in _TRUE:  # values are not known; the usual case will do
            return True
        if function is _aten._local_scalar_dense.default:
            return 1
        if function is _aten.nonzero.default:  # as many as there can be
            return args[0].new_zeros((args[0].numel(), args[0].ndim), dtype=torch.int64)
        if function is _aten.bincount.default:
            return args[0].new_zeros((kwargs or {}).get("minlength", 0))
        output = function(*args, **(kwargs or {}))
        for tensor in tree_iter(output):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return output

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._kinds or key in self._known:
            return
        kind = "head" if self._vocabulary in tensor.shape else "activations"
        size = storage.nbytes()
        self._kinds[key] = (size, kind)
        self._now[kind] += size
        self._small += size if size < _MAPPED_BYTES else 0
        if self._now.total() > self.peak.total():
            self.peak, self.small = self._now.copy(), self._small
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        size, kind = self._kinds.pop(key)
        self._now[kind] -= size
        self._small -= size if size < _MAPPED_BYTES else 0

    def _mark(self, parameter: Tensor) -> None:
        """Know a gradient for one."""
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        size, kind = self._kinds.get(key, (0, "gradients"))
        if kind != "gradients":
            self._kinds[key] = (size, "gradients")
            self._now[kind] -= size
            self._now["gradients"] += size
        if not self._keep_gradients:
            parameter.grad = None

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)


_TRUE = {_aten.equal.default, _aten.allclose.default, _aten.is_nonzero.default}


def imagine_weights(model: nn.Module) -> None:
    """Put tensors of the device and mode in force in the place of a meta model's, ties kept."""
    made: dict[int, Any] = {}

    def imagine(old: Tensor) -> Tensor:
        if id(old) not in made:
            new = torch.empty(old.shape, dtype=old.dtype)
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
            made[id(old)] = (old, new)
        new_one: Tensor = made[id(old)][1]
        return new_one

    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, old in held.items():
                if old is not None:
                    held[name] = imagine(old)


class _UnpackedProduct(torch.autograd.Function):
    """A product with a weight that is unpacked from four bits for it, each time anew."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return values @ weight.to(values.dtype, copy=True).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.weight.to(grad.dtype, copy=True), None


def unpack_weights(model: nn.Module) -> None:
    """Let the frozen linear layers of a model work as those of QLoRA do, but for the output."""

    def multiply(self: Any, values: Tensor) -> Tensor:
        product: Tensor = _UnpackedProduct.apply(values, self.weight)
        return product if self.bias is None else product + self.bias

    output = model.get_output_embeddings()
    for module in model.modules():
        frozen = isinstance(module, nn.Linear) and not module.weight.requires_grad
        if frozen and module is not output:
            module.forward = MethodType(multiply, module)
