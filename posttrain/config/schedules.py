"""What each course of the learning rate can be told: transformers' options, by its names."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, TypeAdapter
from pydantic import ValidationError as Refused

from posttrain.config.base import KeyMistakesError

Shape = Literal["linear", "cosine", "1-sqrt"]
Share = Annotated[float, Field(ge=0, le=1)]

_LEAST: dict[str, Any] = {
    "num_cycles": PositiveFloat,
    "min_lr": NonNegativeFloat,
    "min_lr_rate": Share,
}
SCHEDULE_OPTIONS: dict[str, dict[str, Any]] = {
    "cosine": {"num_cycles": PositiveFloat},
    "linear": {},
    "constant": {},
    "cosine_with_restarts": {"num_cycles": PositiveInt},
    "cosine_with_min_lr": _LEAST,
    "cosine_warmup_with_min_lr": {**_LEAST, "warmup_lr_rate": Share},
    "polynomial": {"lr_end": NonNegativeFloat, "power": PositiveFloat},
    "inverse_sqrt": {"timescale": PositiveInt},
    "warmup_stable_decay": {
        "num_decay_steps": PositiveInt,
        "num_stable_steps": PositiveInt,
        "warmup_type": Shape,
        "decay_type": Shape,
        "min_lr_ratio": Share,
        "num_cycles": PositiveFloat,
    },
}
"""Schedule -> option -> its type."""
NEEDED_OPTIONS = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}
"""Schedules that need exactly one of these."""


def check_options(schedule: str, options: dict[str, Any]) -> dict[str, Any]:
    """Check names and types of a schedule's options.

    Raises:
        KeyMistakesError: Says of each option what is wrong with it.
    """
    known = SCHEDULE_OPTIONS[schedule]
    mistakes, checked = {}, {}
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            listed = f"its options: {', '.join(known)}" if known else "it has none"
            hint = f"did you mean `{near[0]}`?" if near else listed
            mistakes[name] = f"`schedule: {schedule}` has no such option; {hint}"
            continue
        if isinstance(value, bool):
            mistakes[name] = f"is no switch; it cannot be {str(value).lower()}"
            continue
        try:
            checked[name] = TypeAdapter(known[name]).validate_python(value)
        except Refused as error:
            mistakes[name] = f"{error.errors()[0]['msg']} (given: {value!r})"
    if mistakes:
        raise KeyMistakesError(mistakes)
    return checked
