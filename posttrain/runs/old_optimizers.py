"""What other tools say of optimizer and learning rate, where several keys mean one thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from posttrain.runs.old_settings import make_plain

_EIGHT_BITS = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit")
_WHOLE = (
    "adamw",
    "adamw_hf",
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_apex_fused",
    "adamw_torch_xla",
    "adamw_torch_npu_fused",
    "paged_adamw",
    "paged_adamw_32bit",
)
_OPTIMIZERS = {
    **dict.fromkeys(_WHOLE, "adamw"),
    **dict.fromkeys(_EIGHT_BITS, "adamw_8bit"),
    "adafactor": "adafactor",
    "muon": "muon",
}
_MEASURING = ("reduce_lr_on_plateau", "greedy")
TOGETHER = (
    "optim",
    "use_muon",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_ratio",
    "warmup_steps",
    "num_warmup_steps",
    "pure_bf16",
)
"""Keys that are read together, after all others."""

Put = Callable[[str, str, Any], None]
Drop = Callable[[str, str], None]


def carry_optimizer(old: dict[str, Any], *, full: bool, put: Put, drop: Drop) -> None:
    """Carry optimizer, schedule, warm-up and number format of the weights over.

    Args:
        old: Settings by their last name.
        full: Whether all weights are trained.
        put: Sets a key of the recipe: old key, new key, value.
        drop: Notes an old key that has no place, and why.
    """
    name = "muon" if old.get("use_muon") is True else old.get("optim")
    if name in _OPTIMIZERS:
        put("use_muon" if name != old.get("optim") else "optim", _OPTIMIZER, _OPTIMIZERS[name])
    elif name:
        drop("optim", f"{name} is none of adamw, adamw_8bit, adafactor, muon")
    _carry_schedule(old, put, drop)
    _carry_warmup(old, put)
    if old.get("pure_bf16") is True:
        put("pure_bf16", "compute.precision", "bf16")
        if full:
            put("pure_bf16", "compute.weights", "bf16")


def _carry_schedule(old: dict[str, Any], put: Put, drop: Drop) -> None:
    name = old.get("lr_scheduler_type")
    if name in _MEASURING:
        drop("lr_scheduler_type", f"{name} follows what is measured; schedules here are planned")
        return
    if name:
        plain = {"constant_with_warmup": "constant"}.get(name, name)
        put("lr_scheduler_type", "stages.STAGE.schedule", plain)
    options = old.get("lr_scheduler_kwargs")
    try:
        options = json.loads(options) if isinstance(options, str) else options
    except ValueError:
        drop("lr_scheduler_kwargs", "is no JSON")
        return
    if isinstance(options, dict) and options:
        plain_options = {key: make_plain(value) for key, value in options.items()}
        put("lr_scheduler_kwargs", "stages.STAGE.schedule_options", plain_options)


def _carry_warmup(old: dict[str, Any], put: Put) -> None:
    """A number of steps goes before a share, as in transformers; below 1 it is a share."""
    key = "warmup_steps" if "warmup_steps" in old else "num_warmup_steps"
    steps = make_plain(old.get(key))
    if isinstance(steps, (int, float)) and steps >= 1:
        put(key, "stages.STAGE.warmup_steps", int(steps))
    elif isinstance(steps, float) and steps > 0:
        put(key, "stages.STAGE.warmup", steps)
    elif old.get("warmup_ratio") is not None:
        put("warmup_ratio", "stages.STAGE.warmup", old["warmup_ratio"])
    elif steps == 0:
        put(key, "stages.STAGE.warmup", 0.0)


_OPTIMIZER = "stages.STAGE.optimizer"
