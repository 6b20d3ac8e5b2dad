"""`tracking:` in its two forms."""

import pytest

from posttrain.config.load import build_recipe, load_recipe
from posttrain.config.tracking import TrackingConfig
from posttrain.errors import ConfigError

VALUES = {
    "name": "small",
    "model": {"path": "tiny"},
    "stages": [{"stage": "sample-data", "kind": "math", "num": 1}],
}


def build(tracking=None, *overrides):
    values = VALUES if tracking is None else {**VALUES, "tracking": tracking}
    return build_recipe(values, overrides, "test").tracking


def named(tracking):
    return {name for name in TrackingConfig.model_fields if getattr(tracking, name)}


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["tensorboard", "swanlab"], {"tensorboard", "swanlab"}),
        (["wandb", "mlflow"], {"wandb", "mlflow"}),
        ("swanlab", {"swanlab"}),
        ("none", set()),
        ([], set()),
        ({"wandb": {}}, {"tensorboard", "wandb"}),
        (None, {"tensorboard"}),
    ],
)
def test_names_and_mappings_say_who_is_told(written, names):
    assert named(build(written)) == names


@pytest.mark.parametrize("text", ["[wandb,mlflow]", "[wandb, mlflow]", "['wandb', mlflow]"])
def test_an_override_names_them_too(text):
    assert named(build(None, f"tracking={text}")) == {"wandb", "mlflow"}
    assert named(build({"swanlab": {}}, f"tracking={text}")) == {"wandb", "mlflow"}


def test_a_name_keeps_the_settings_that_are_there():
    tracking = build({"wandb": {"project": "own"}, "swanlab": {}}, "tracking=[wandb]")
    assert named(tracking) == {"wandb"}
    assert tracking.wandb.project == "own"


def test_a_list_in_a_file_can_be_told_more(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(
        "name: small\nmodel: {path: tiny}\ntracking: [wandb]\n"
        "stages: [{stage: sample-data, kind: math, num: 1}]\n"
    )
    assert load_recipe(path, ["tracking.wandb.project=own"]).tracking.wandb.project == "own"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["wandb", "tensorbord"], "no tracker is called `tensorbord`; did you mean `tensorboard`"),
        (["WandB"], "no tracker is called `WandB`; did you mean `wandb`"),
        (["comet"], "there are: tensorboard, wandb, swanlab, mlflow"),
        ([3], "no tracker is called `3`"),
    ],
)
def test_a_mistyped_name_is_one_line_with_the_nearest(written, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "/tmp/mlruns"])
def test_mlflow_into_a_folder_is_refused_with_what_works(uri):
    with pytest.raises(ConfigError, match=r"sqlite:////data/mlflow\.db, or a server"):
        build({"mlflow": {"uri": uri}})


def test_a_secret_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_TOKEN") as caught:
        build({"mlflow": {"uri": "https://me:s3cret@host"}})
    assert "s3cret" not in str(caught.value)
