import optuna
import pytest
import yaml

from posttrain.config.load import load_settings
from posttrain.config.sweep import SweepConfig
from posttrain.errors import ConfigError
from posttrain.sweeps.search import (
    build_sampler,
    list_grid,
    list_probes,
    read_settings,
    suggest_settings,
    to_yaml,
)

SPACE = {
    "stages.sft.learning_rate": {"low": "1e-5", "high": "1e-3", "log": True},
    "lora.rank": [8, 16, 32],
    "lora.targets": ["all-linear", ["q_proj", "v_proj"]],
    "stages.sft.steps": {"low": 2, "high": 10, "step": 4},
}


def config(**changes):
    return SweepConfig.model_validate({"search": SPACE, "metric": "sft.validation_loss", **changes})


@pytest.mark.parametrize("value", [1e-05, 0.1, 8, True, "cosine", "8", "a: b", ["x", "y"], None])
def test_a_value_survives_yaml_on_one_line(value):
    assert yaml.safe_load(to_yaml(value)) == value
    assert "\n" not in to_yaml(value)


def ask(study, sweep, count):
    found = []
    for _ in range(count):
        study.sampler = build_sampler(sweep, len(study.trials))
        trial = study.ask()
        settings = suggest_settings(trial, sweep)
        assert read_settings(trial.params) == settings
        study.tell(trial, float(yaml.safe_load(settings["lora.rank"])))
        found.append(settings)
    return found


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_sweep_that_was_stopped_makes_the_trials_it_would_have_made(tmp_path, sampler):
    sweep = config(sampler=sampler, seed=3)
    whole = ask(optuna.create_study(), sweep, 14)
    for count in (5, 9):
        storage = f"sqlite:///{tmp_path / 'study.db'}"
        study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
        start = len(study.trials)
        assert ask(study, sweep, count) == whole[start : start + count]
    assert len({tuple(settings.values()) for settings in whole}) == 14
    other = ask(optuna.create_study(), config(sampler=sampler, seed=4), 1)
    assert other != whole[:1]


def test_suggestions_stay_in_the_space():
    for settings in ask(optuna.create_study(), config(), 10):
        assert 1e-5 <= yaml.safe_load(settings["stages.sft.learning_rate"]) <= 1e-3
        assert yaml.safe_load(settings["lora.targets"]) in ("all-linear", ["q_proj", "v_proj"])
        assert settings["stages.sft.steps"] in ("2", "6", "10")


def test_a_grid_has_every_combination():
    space = {"a": [1, 2], "b": {"low": 0.0, "high": 0.3, "step": 0.1}}
    grid = list_grid(config(search=space, sampler="grid"))
    assert len(grid) == 8
    assert grid[0] == {"a": "1", "b": 0.0}
    assert [point["b"] for point in grid[:4]] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_probes_are_the_bounds_and_every_choice():
    assert list(list_probes(config()))[:5] == [
        ("stages.sft.learning_rate", "1.0e-05"),
        ("stages.sft.learning_rate", "0.001"),
        ("lora.rank", "8"),
        ("lora.rank", "16"),
        ("lora.rank", "32"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": {"a": {"low": 2, "high": 1}}}, "low (2) must be below high (1)"),
        ({"search": {"a": {"low": 0, "high": 1.0, "log": True}}}, "log needs a low above 0"),
        ({"search": {"a": {"low": 0.5, "high": 1.0}}, "sampler": "grid"}, "a grid needs a list"),
        ({"metric": "accuracy"}, "metric"),
        ({"search": {}}, "search"),
        ({"trails": 3}, "did you mean `trials`?"),
    ],
)
def test_mistakes_in_a_sweep_file_are_named(tmp_path, change, message):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"search": SPACE, "metric": "sft.loss", **change}))
    with pytest.raises(ConfigError) as caught:
        load_settings(SweepConfig, path, [])
    assert message in str(caught.value)
    assert "sweep.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("sft.validation_loss", "minimize"),
        ("base.text.perplexity", "minimize"),
        ("tuned.gsm8k.accuracy", "maximize"),
    ],
)
def test_the_direction_follows_the_metric(metric, expected):
    assert config(metric=metric).better == expected
    assert config(metric=metric, direction="maximize").better == "maximize"
