"""A value given in a file, in an override or in code gives the same recipe."""

import json
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.config.load import build_recipe, load_recipe
from posttrain.config.recipe import Recipe

STAGE = {
    "epochs": st.floats(0.01, 50),
    "steps": st.none() | st.integers(1, 10**6),
    "batch_tokens": st.integers(1, 10**6),
    "learning_rate": st.floats(1e-8, 0.5),
    "schedule": st.sampled_from(["cosine", "linear", "constant"]),
    "warmup": st.floats(0, 0.99),
    "activation_checkpointing": st.booleans(),
}
TOP = {
    "name": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True),
    "seed": st.integers(0, 2**31),
    "tuning": st.sampled_from(["full", "lora"]),
    "lora": st.fixed_dictionaries(
        {}, optional={"rank": st.integers(1, 64), "alpha": st.floats(0.1, 99)}
    ),
}
CHANGES = st.fixed_dictionaries({}, optional=TOP)
STAGE_CHANGES = st.fixed_dictionaries({}, optional=STAGE)
BOUNDED = settings(max_examples=40, deadline=None)


def values(changes, stage_changes):
    stage = {"stage": "sft", "data": {"sources": [{"path": "/rows.jsonl"}]}, **stage_changes}
    return {"name": "study", "model": {"path": "tiny"}, **changes, "stages": [stage]}


def overrides_of(changes, prefix=""):
    for name, value in changes.items():
        if isinstance(value, dict):
            yield from overrides_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(value)}"


@BOUNDED
@given(CHANGES, STAGE_CHANGES)
def test_override_and_file_give_the_same_recipe(tmp_path_factory, changes, stage_changes):
    folder = tmp_path_factory.mktemp("recipes")
    plain, changed = folder / "plain.yaml", folder / "changed.yaml"
    plain.write_text(yaml.safe_dump(values({}, {})), encoding="utf-8")
    changed.write_text(yaml.safe_dump(values(changes, stage_changes)), encoding="utf-8")
    overrides = [*overrides_of(changes), *overrides_of(stage_changes, "stages.sft.")]

    recipe = load_recipe(plain, overrides)
    assert recipe == load_recipe(changed)
    assert recipe == build_recipe(values({}, {}), overrides, "code")
    assert recipe == Recipe.model_validate(values(changes, stage_changes))


@BOUNDED
@given(CHANGES, STAGE_CHANGES)
def test_recipe_written_as_json_is_read_back_as_it_was(tmp_path_factory, changes, stage_changes):
    recipe = build_recipe(values(changes, stage_changes), [], "code")
    path = tmp_path_factory.mktemp("recipes") / "config.yaml"
    path.write_text(recipe.model_dump_json(), encoding="utf-8")

    assert load_recipe(path) == recipe
    assert recipe.stages[0].data.sources[0].path == Path("/rows.jsonl")
