"""Sample data of our own making, deterministic by seed: something to try every part on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from posttrain.samples.chat import generate_chat
from posttrain.samples.math import generate_math
from posttrain.samples.mcq import generate_mcq
from posttrain.samples.preference import generate_mcq_preference, generate_preference
from posttrain.samples.text import generate_text
from posttrain.samples.tools import generate_tools

GENERATORS: dict[str, Callable[[int, int], Iterator[dict[str, Any]]]] = {
    "math": generate_math,
    "chat": generate_chat,
    "mcq": generate_mcq,
    "mcq-preference": generate_mcq_preference,
    "preference": generate_preference,
    "text": generate_text,
    "tools": generate_tools,
}
