"""`schedule_options`: each mistake at its own line, without torch."""

import pytest

from posttrain.config.load import load_recipe
from posttrain.errors import ConfigError

RECIPE = """\
name: t
model: {path: tiny}
stages:
  - stage: sft
    data: {sources: [{path: rows.jsonl}]}
    schedule: SCHEDULE
    schedule_options:
      OPTION
"""


@pytest.fixture
def load(tmp_path):
    def load(schedule, option):
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.replace("SCHEDULE", schedule).replace("OPTION", option))
        return load_recipe(path).stages[0].schedule_options

    return load


def test_options_are_taken(load):
    assert load("polynomial", "lr_end: 1e-7") == {"lr_end": 1e-7}
    assert load("warmup_stable_decay", "num_decay_steps: 3") == {"num_decay_steps": 3}


@pytest.mark.parametrize(
    ("schedule", "option", "message"),
    [
        ("cosine_with_restarts", "num_cylces: 2", "did you mean `num_cycles`?"),
        ("cosine", "timescale: 2", "its options: num_cycles"),
        ("constant", "num_cycles: 2", "it has none"),
        ("polynomial", "power: two", "should be a valid number"),
        ("polynomial", "lr_end: -1", "greater than or equal to 0"),
        ("cosine_with_min_lr", "min_lr: yes", "is no switch; it cannot be true"),
        ("inverse_sqrt", "timescale: 0", "greater than 0"),
    ],
)
def test_a_mistake_is_told_at_its_own_line(load, schedule, option, message):
    with pytest.raises(ConfigError) as caught:
        load(schedule, option)
    name = option.partition(":")[0]
    assert f"recipe.yaml:8: `stages.0.schedule_options.{name}`: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("schedule", "option", "message"),
    [
        ("cosine_with_min_lr", "num_cycles: 0.5", "needs .*`min_lr` or `min_lr_rate`"),
        ("cosine_with_min_lr", "{min_lr: 1e-6, min_lr_rate: 0.1}", "`min_lr` or `min_lr_rate`"),
        ("warmup_stable_decay", "decay_type: linear", "needs .*`num_decay_steps`"),
    ],
)
def test_what_a_schedule_needs_is_asked_for(load, schedule, option, message):
    with pytest.raises(ConfigError, match=message):
        load(schedule, option)
