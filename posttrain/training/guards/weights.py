"""At the end: the weights have moved, and the saved model holds the moved ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import VerificationError
from posttrain.training.processes import gathered

_KEPT = 16_384
"""Values of each tensor that are kept from the start, evenly spaced: 64 KiB."""


@dataclass(frozen=True)
class WeightChange:
    """What training did to the trainable weights."""

    moved_share: float
    """Share of the tensors that changed, 0 to 1."""
    delta: float
    """Norm of the change by the norm at the start, of up to 16,384 values of each tensor."""
    unmoved: tuple[str, ...]
    """Tensors that are as they were."""


class WeightWatch:
    """Remembers a fingerprint of the trainable weights, to prove that they moved.

    Args:
        model: Before training.
    """

    def __init__(self, model: Any) -> None:
        self._before, self._kept = {}, {}
        for name, weight in _trainable(model):
            self._before[name], self._kept[name] = _fingerprint(weight), _take_some(weight)

    def check_moved(self, model: Any) -> WeightChange:
        """Compare with the weights after training.

        Raises:
            VerificationError: None changed.
        """
        unmoved, moved = [], 0.0
        for name, weight in _trainable(model):
            if self._before[name] == _fingerprint(weight):
                unmoved.append(name)
            moved += float((_take_some(weight) - self._kept[name]).square().sum())
        if len(unmoved) == len(self._before):
            raise VerificationError(
                "training ended and no trainable weight has changed",
                hint="check the learning rate and what is trainable",
            )
        whole = sum(float(values.square().sum()) for values in self._kept.values())
        share = 1 - len(unmoved) / len(self._before)
        return WeightChange(share, math.sqrt(moved / max(whole, 1e-30)), tuple(unmoved))


def describe_change(change: WeightChange) -> list[str]:
    """Say how far the weights have moved, and which have not."""
    line = f"weights: {change.moved_share:.1%} of the trainable tensors have changed, "
    lines = [f"{line}by {change.delta:.2%} of their norm"]
    if change.unmoved:
        names = ", ".join(change.unmoved[:3])
        lines.append(f"warning: {len(change.unmoved)} are as they were: {names}")
    return lines


def check_saved(model: Any, folder: Path | None, apart: tuple[str, ...] = ()) -> None:
    """Read a saved model again: every trainable tensor must be in it as it is in memory.

    Tensors are known by shape and contents, for a file may call them otherwise.

    Args:
        model: After training.
        folder: With its ``safetensors`` files; None in a process that only helps another one to
            gather the weights.
        apart: Starts of the names of weights that the folder rightly lacks.

    Raises:
        VerificationError: Names one that is not there.
    """
    from safetensors import safe_open

    saved = {}
    for path in sorted(folder.glob("*.safetensors")) if folder else ():
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                saved[name] = _describe(file.get_tensor(name))
    held = {
        name: _describe(weight.cpu())
        for name, weight in _trainable(model)
        if not name.startswith(apart)
    }
    if not folder:
        return
    in_file, in_memory = set(saved.values()), set(held.values())
    lost = {name: what for name, what in held.items() if what not in in_file}
    spare = {name: what for name, what in saved.items() if what not in in_memory}
    # transformers holds a mixture's experts in one tensor and saves each by itself.
    lost = {name: what for name, what in lost.items() if not _is_parted(name, lost, spare)}
    if lost:
        raise VerificationError(
            f"{folder}: {next(iter(lost))} and {len(lost) - 1} other trained weights are not in "
            "the saved model as they were trained",
            hint="the newest checkpoint holds them; run the same command to write it again",
        )


def _is_parted(name: str, lost: _Described, spare: _Described) -> bool:
    """Whether the experts that a tensor belongs to are in the file in other parts, all together."""
    place, experts, _ = name.partition(".experts.")
    if not experts:
        return False
    in_memory, in_file = (_add_up(tensors, place + experts) for tensors in (lost, spare))
    return all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(in_memory, in_file, strict=True))


def _add_up(tensors: _Described, start: str) -> tuple[float, float, float]:
    """Elements, sum, and sum of squares of the tensors whose names begin so."""
    chosen = [what for name, what in tensors.items() if name.startswith(start)]
    return (
        sum(math.prod(shape) for shape, _, _ in chosen),
        math.fsum(total for _, total, _ in chosen),
        math.fsum(norm**2 for _, _, norm in chosen),
    )


def _describe(weight: Tensor) -> tuple[tuple[int, ...], float, float]:
    return (tuple(weight.shape), *_fingerprint(weight))


_Described = dict[str, tuple[tuple[int, ...], float, float]]


def _trainable(model: Any) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with gathered(parameter) as whole:
                yield name, whole.detach()


def _fingerprint(weight: Tensor) -> tuple[float, float]:
    values = weight.double()
    return float(values.sum()), float(values.norm())


def _take_some(weight: Tensor) -> Tensor:
    flat = weight.flatten()
    return flat[:: -(-len(flat) // _KEPT)].to("cpu", torch.float32, copy=True)
