"""What `posttrain sweep` searches: keys of a recipe, their values, and what makes a trial good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from posttrain.config.base import Config, ConfigPath, Located, StageName


class RangeConfig(Config):
    """All numbers from one to another; whole ones where both bounds are whole."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    log: bool = False
    """Search powers evenly, as for learning rates: 1e-5 to 1e-4 counts as much as 1e-4 to 1e-3."""
    step: Annotated[int | float, Field(gt=0)] | None = None
    """Take only every so-many-th value from `low` on."""

    @model_validator(mode="after")
    def _check_bounds(self) -> RangeConfig:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0 and has no step")
        if self.whole and isinstance(self.step, float):
            raise ValueError("whole bounds need a whole step")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


def _settle_choice(value: Any) -> Any:
    """Make a choice plain, and one that is written as a relative path absolute."""
    if isinstance(value, Located):
        is_path = value.startswith(("./", "../", "~"))
        return str((value.base / Path(value).expanduser()).resolve()) if is_path else str(value)
    return [_settle_choice(item) for item in value] if isinstance(value, list) else value


Choice = Annotated[Any, BeforeValidator(_settle_choice)]
Choices = Annotated[tuple[Choice, ...], Field(min_length=1)]


class SweepConfig(Config):
    """Many runs of one recipe with other settings, and which of them was best."""

    recipe: ConfigPath | None = None
    """The recipe; the command line may name it instead."""
    name: StageName | None = None
    """Folder of the trials' runs; the recipe's name with `-sweep` where absent."""
    search: Annotated[dict[str, RangeConfig | Choices], Field(min_length=1)]
    """Key of the recipe, as on the command line: a list of values, or `{low, high, log, step}`."""
    metric: Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)+")]
    """`stage.task.metric` of an evaluation, such as `tuned.gsm8k.accuracy`, or `stage.metric` of a
    training stage, such as `sft.validation_loss` (the last one measured)."""
    direction: Literal["minimize", "maximize"] | None = None
    """What is better; where absent, less of a loss or perplexity, and more of anything else."""
    trials: PositiveInt = 20
    """Runs in all, failed ones included; a grid may have fewer."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """`tpe` learns from the trials before; `grid` tries all combinations."""
    seed: NonNegativeInt = 0
    """Of the sampler."""
    max_failures: PositiveInt = 3
    """Stop after so many failed trials in a row."""

    @model_validator(mode="after")
    def _check_grid(self) -> SweepConfig:
        for key, values in self.search.items():
            endless = isinstance(values, RangeConfig) and not values.whole and values.step is None
            if self.sampler == "grid" and endless:
                raise ValueError(f"a grid needs a list, or a step, for `{key}`")
        return self

    @property
    def better(self) -> Literal["minimize", "maximize"]:
        """The direction, settled."""
        last = self.metric.rpartition(".")[2]
        guess = "minimize" if "loss" in last or "perplexity" in last else "maximize"
        return self.direction or guess  # type: ignore[return-value]
