"""`batch_tokens: auto`: the largest batch that should fit into the memory there is."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config.recipe import Recipe
from posttrain.config.train import FixedDataStage
from posttrain.data.prepare import PreparedData
from posttrain.errors import ConfigError
from posttrain.files import load_json, write_json
from posttrain.logs import format_bytes, say
from posttrain.models.memory import estimate_memory
from posttrain.runs.folder import POLL_SECONDS
from posttrain.runs.rehearsal import NotRehearsedError, rehearse_step
from posttrain.runs.tuning import count_stage_parameters
from posttrain.runtime import is_main_process, world_size
from posttrain.training.batches import build_schedule
from posttrain.training.budget import BUDGET_FILE

# What the estimate may be wrong by, and what others may take while the stage runs.
_SHARE = 0.8
# More would make steps few rather than fast.
_MOST_TOKENS = 65_536
_ROUND_TOKENS = 256
# Where there is no estimate; a batch that does not fit is cut in training.
_BLIND_TOKENS = 2048


def settle_batch_tokens(
    recipe: Recipe, stage: Any, data: PreparedData, config: Any, folder: Path
) -> Any:
    """Put a number in the place of `auto`: the one that the stage's folder keeps, or a new one.

    Args:
        recipe: As ``Recipe.tuned_for`` returns it for the stage.
        stage: A training stage.
        data: Its examples.
        config: The model's transformers config.
        folder: The stage's folder.

    Returns:
        The stage.

    Raises:
        ConfigError: Not even the longest example should fit.
    """
    if stage.batch_tokens != "auto":
        return stage
    path = folder / BUDGET_FILE
    while not is_main_process() and not path.is_file():
        time.sleep(POLL_SECONDS)
    if not path.is_file():
        tokens, reason = find_batch_tokens(recipe, stage, data, config)
        say(f"batch_tokens: {tokens:,} ({reason})")
        write_json(path, {"batch_tokens": tokens, "reason": reason, "cuts": []})
    return stage.model_copy(update={"batch_tokens": load_json(path)["batch_tokens"]})


def find_batch_tokens(
    recipe: Recipe, stage: Any, data: PreparedData, config: Any
) -> tuple[int, str]:
    """Find the largest batch that should fit, and say why.

    Raises:
        ConfigError: Not even the longest example should fit.
    """
    room, where = _find_room(recipe.compute.device)
    limit = _SHARE * room
    longest = max(int(s.lengths.max()) for s in (data.train, data.validation) if len(s))
    a_pass = int(data.train.lengths.sum()) // (stage.accumulate * world_size())
    most = max(longest, min(_MOST_TOKENS, a_pass))
    small = max(longest, 1024)
    total, trainable, held = count_stage_parameters(recipe, stage, config)
    weigh = partial(
        estimate_memory, total_parameters=total, trainable_parameters=trainable, held=held
    )
    try:
        sizes = [
            weigh(step=_rehearse(recipe, stage, data, config, tokens)).total
            for tokens in (longest, small, 2 * small)
        ]
    except NotRehearsedError as error:
        return (
            max(longest, min(_BLIND_TOKENS, most)),
            f"memory could not be estimated: {error}; a batch that does not fit is halved",
        )
    if sizes[0] > limit:
        raise ConfigError(
            f"stage `{stage.name}`: batch_tokens: auto finds no room: the longest example of "
            f"{longest:,} tokens takes about {format_bytes(sizes[0])}, and {_SHARE:.0%} of {where} "
            f"are {format_bytes(limit)}",
            hint="set activation_checkpointing: true, lower data.max_tokens, or tuning: lora or "
            "qlora",
        )
    per_token = max(1.0, (sizes[2] - sizes[1]) / small)
    fitting = small + (limit - sizes[1]) / per_token
    share = f"{_SHARE:.0%} of {where} are {format_bytes(limit)}, by the estimate of plan"
    if fitting >= most:
        return most, f"{'a whole pass' if most == a_pass else 'the most that is taken'}; {share}"
    return max(longest, int(fitting) // _ROUND_TOKENS * _ROUND_TOKENS), share


def _rehearse(
    recipe: Recipe, stage: FixedDataStage, data: PreparedData, config: Any, tokens: int
) -> Counter[str]:
    """Run the heaviest batch of so many tokens without weights, for what a step holds."""
    sized = stage.model_copy(update={"batch_tokens": tokens})
    schedule = build_schedule(data.train, sized, seed=recipe.seed)
    heaviest = data.train.batch(schedule.batches[int(np.argmax(schedule.batch_size_tokens))])
    # Of several processes each holds DDP's buckets besides, as large as the gradients.
    again = stage.accumulate > 1 or world_size() > 1
    return rehearse_step(recipe, sized, config, heaviest, again=again)


def _find_room(device: str) -> tuple[float, str]:
    """Memory that this process may take, what it holds already included, and where it is."""
    import psutil
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0], "the free memory of the GPU"
    own = psutil.Process().memory_info()
    room, where = float(psutil.virtual_memory().available + own.rss), "the available memory"
    group = Path("/sys/fs/cgroup")
    try:
        most = int((group / "memory.max").read_text())
        left = most - int((group / "memory.current").read_text()) + own.rss
        if left < room:
            room, where = left, "the memory of this container"
    except (OSError, ValueError):  # no group, or one without a limit
        pass
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    # Address space that is reserved and not used counts there.
    if 0 < address_space - own.vms + own.rss < room and address_space != resource.RLIM_INFINITY:
        room, where = address_space - own.vms + own.rss, "the address space (ulimit -v)"
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return room / beside, where if beside == 1 else f"{where}, shared by {beside} processes,"
