"""From a search space to the settings of a trial, as ``key=value`` overrides of the recipe."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import yaml

from posttrain.config.sweep import RangeConfig, SweepConfig
from posttrain.extras import require_extra

Settings = dict[str, str]
"""Key of the recipe -> value as YAML."""


def to_yaml(value: Any) -> str:
    """Write a value on one line, so that reading it as YAML gives it back."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1_000_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def suggest_settings(trial: Any, config: SweepConfig) -> Settings:
    """Ask Optuna's sampler for one value per key.

    Args:
        trial: An ``optuna.Trial``.
        config: The sweep.
    """
    return {key: _suggest(trial, key, values) for key, values in config.search.items()}


def read_settings(parameters: dict[str, Any]) -> Settings:
    """Turn a stored trial's parameters back into settings; choices are stored as YAML already."""
    return {k: v if isinstance(v, str) else to_yaml(v) for k, v in parameters.items()}


def _suggest(trial: Any, key: str, values: RangeConfig | tuple[Any, ...]) -> str:
    if not isinstance(values, RangeConfig):
        return str(trial.suggest_categorical(key, [to_yaml(value) for value in values]))
    if values.whole:
        step = int(values.step or 1)
        low, high = int(values.low), int(values.high)
        return to_yaml(trial.suggest_int(key, low, high, step=step, log=values.log))
    return to_yaml(
        trial.suggest_float(
            key, float(values.low), float(values.high), step=values.step, log=values.log
        )
    )


def build_sampler(config: SweepConfig, number: int) -> Any:
    """Build Optuna's sampler for one trial.

    Its seed depends on the trial's number alone, so that a sweep that was stopped goes on with the
    very trials that it would have made.

    Args:
        config: The sweep.
        number: Of the trial, from 0.
    """
    optuna = require_extra("optuna", "sweep")
    seed = random.Random(f"{config.seed}:{number}").getrandbits(32)
    if config.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def list_grid(config: SweepConfig) -> list[dict[str, Any]]:
    """List every combination of the values, as Optuna parameters; the last key changes fastest."""
    lists = [list(_list_values(values)) for values in config.search.values()]
    return [dict(zip(config.search, found, strict=True)) for found in itertools.product(*lists)]


def _list_values(values: RangeConfig | tuple[Any, ...]) -> Iterator[Any]:
    if not isinstance(values, RangeConfig):
        yield from map(to_yaml, values)
        return
    step = values.step or 1
    # A hair beyond, for sums of fractions.
    for number in range(int((values.high - values.low) / step + 1e-9) + 1):
        yield values.low + number * step


def list_probes(config: SweepConfig) -> Iterator[tuple[str, str]]:
    """Yield key and value (YAML) of every choice and every bound, to be tried on the recipe."""
    for key, values in config.search.items():
        if isinstance(values, RangeConfig):
            numbers = (values.low, values.high)
            yield from ((key, to_yaml(n if values.whole else float(n))) for n in numbers)
        else:
            yield from ((key, to_yaml(value)) for value in values)
