import json
from pathlib import Path

import yaml

from posttrain.config.base import Config
from posttrain.config.recipe import Recipe
from posttrain.config.schema import all_models, build_schema
from posttrain.config.tracking import TrackingConfig

RECIPES = Path(__file__).parents[3] / "recipes"
# Where the name and the type say all, and a part whose class says it.
SELF_EXPLANATORY = {"stage", "name", "seed", "data", "split", "model", "compute", "lora"}


def properties(schema):
    yield from schema["properties"].items()
    for definition in schema["$defs"].values():
        yield from definition.get("properties", {}).items()


def test_every_setting_is_documented():
    bare = {name for name, value in properties(build_schema()) if not value.get("description")}

    assert bare <= SELF_EXPLANATORY | {
        "weight_decay",
        "log_every_steps",
        "contamination",
        "tasks",
        "num",
    }


def test_documentation_stands_under_its_own_field():
    sft = build_schema()["$defs"]["SftStage"]["properties"]

    assert sft["accumulate"]["description"] == "Batches added up before each optimizer step."


def test_included_file_may_leave_out_what_another_says():
    schema = build_schema()

    assert "required" not in schema
    assert "base" in schema["properties"]


def test_schema_file_beside_the_recipes_is_up_to_date():
    stored = json.loads((RECIPES / "recipe.schema.json").read_text(encoding="utf-8"))

    assert stored == build_schema(), "run `make schema`"


def test_schema_knows_every_key_of_our_recipes():
    known = {name for name, _ in properties(build_schema())}

    def keys(value):
        if isinstance(value, dict):
            for name, item in value.items():
                yield name
                if name not in ("columns", "overrides"):  # maps with keys of the user's own
                    yield from keys(item)
        elif isinstance(value, list):
            for item in value:
                yield from keys(item)

    files = sorted(RECIPES.rglob("*.yaml"))
    assert files
    for file in files:
        assert set(keys(yaml.safe_load(file.read_text(encoding="utf-8")))) <= known, file


def test_schema_refuses_unknown_keys_everywhere():
    schema = build_schema()

    assert schema["additionalProperties"] is False
    assert all(d["additionalProperties"] is False for d in schema["$defs"].values())


def test_an_editor_takes_what_a_recipe_takes_in_place_of_a_mapping():
    schema = build_schema()
    mlm = schema["$defs"]["MlmStage"]["properties"]
    split = schema["$defs"]["TextDataConfig"]["properties"]["split"]

    assert mlm["mask"]["anyOf"] == [{"$ref": "#/$defs/MaskConfig"}, {"type": "number"}]
    assert {"type": "string"} in split["anyOf"]
    names = schema["properties"]["tracking"]["anyOf"][1]["items"]["enum"]
    assert names == list(TrackingConfig.model_fields)


def test_every_class_with_a_short_form_says_what_it_looks_like():
    for model in all_models(Recipe):
        own = model.read_shorthand.__func__ is not Config.read_shorthand.__func__
        assert bool(model.shorthands) == own, model
